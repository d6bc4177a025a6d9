// The products of FloatProducts (kernels/cpu/attention_products.h) for bf16, by AMX tiles, with sums in fp32.
//
// Rounded to bf16 before they are multiplied: weights, gradients of scores, and dout where it has factors. Scores are
// scaled in fp32. Left operands of scores are keys and values where they lie; everything else is packed: queries and
// dout once per block of queries, keys and values once per tile or, in backward, per range.
#pragma once

#include "kernels/cpu/amx/tiles.h"
#include "kernels/cpu/attention_products.h"

namespace plimsoll::cpu::amx {

class AttentionProducts {
  public:
    using R = float;
    using Scope = TileScope;

    AttentionProducts(int64_t HS, int64_t keys, float scale, bool gradients)
        : HS_(HS), W_(round_up(HS, kTileDepth)), row_(W_ + kPad), scale_(scale), gradients_(gradients) {
        const int64_t rows = round_up(keys, kKeys), of_keys = rows * W_, of_queries = kQueries * W_;
        bf16* at = workspace<AttentionProducts, bf16>(3 * of_keys + 4 * of_queries + 3 * kQueries * kKeys);
        const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
        left_keys_ = take(of_keys), left_values_ = take(of_keys), right_keys_ = take(of_keys);
        turned_queries_ = take(of_queries), turned_douts_ = take(of_queries);
        queries_ = take(of_queries), douts_ = take(of_queries);
        weights_ = take(kQueries * kKeys), dscores_ = take(kQueries * kKeys), turned_ = take(kQueries * kKeys);
        float* sums = workspace<struct AttentionSums, float>((kQueries + (gradients ? 2 * rows : 0)) * row_);
        const auto take_sums = [&](int64_t count) { return std::exchange(sums, sums + count * row_); };
        out_ = take_sums(kQueries);
        loaded_ = workspace<struct LoadedTiles, bool>(rows / kKeys);
        if (!gradients) return;
        dkeys_ = take_sums(rows), dvalues_ = take_sums(rows);
        begun_keys_ = workspace<struct BegunKeys, bool>(rows / kHalf);
    }

    static constexpr int64_t padded(int64_t keys) { return keys; }

    void load_queries(const HeadRows<const bf16>& from, int64_t count) {
        pack_columns(turned_queries_, from, count);
        if (gradients_) pack_depth(queries_, from, count);
        begun_[0] = begun_[1] = false;
    }
    void load_gradients(const HeadRows<const bf16>& from, int64_t count, const RowFactors<float>* factors) {
        HeadRows<const bf16> rows = from;
        if (factors) {
            bf16* const scaled = workspace<struct ScaledGradients, bf16>(kQueries * HS_);
            for (int64_t i = 0; i < count; ++i)
                for (int64_t c = 0; c < HS_; ++c)
                    store(scaled[i * HS_ + c],
                          static_cast<float>(from.row(i)[c]) * factors->gate[i] * factors->weights[i]);
            rows.data = scaled, rows.stride = HS_;
        }
        pack_columns(turned_douts_, rows, count);
        pack_depth(douts_, rows, count);
    }
    void load_keys(const HeadRows<const bf16>& keys, const HeadRows<const bf16>& values, int64_t count) {
        key_rows_ = LeftRows(keys, left_keys_, count, HS_), value_rows_ = LeftRows(values, left_values_, count, HS_);
        std::fill_n(loaded_, round_up(count, kKeys) / kKeys, false);
        if (gradients_) std::fill_n(begun_keys_, (count + kHalf - 1) / kHalf, false);
    }
    void use_keys(int64_t first, int64_t count) {
        if (std::exchange(loaded_[first / kKeys], true)) return;
        const HeadRows<const bf16>& by_depth = gradients_ ? key_rows_.rows : value_rows_.rows;
        pack_depth(right_keys_ + first * W_, {by_depth.row(first), by_depth.stride}, count);
        key_rows_.pack(first, count);
        if (gradients_) value_rows_.pack(first, count);
    }

    void scores(float* to, int64_t first, int64_t count, const SeenHalves& halves) const {
        multiply_keys(to, key_rows_, turned_queries_, first, halves);
        for (int64_t x = 0; x < count * kQueries; x += kQueries) {
#pragma omp simd
            for (int64_t i = 0; i < kQueries; ++i) to[x + i] *= scale_;
        }
    }
    void weight_gradients(float* to, int64_t first, int64_t /*count*/, const SeenHalves& halves) const {
        multiply_keys(to, value_rows_, turned_douts_, first, halves);
    }
    void add_values(const float* weights, int64_t first, int64_t count, const SeenHalves& halves) {
        add_turned(weights, right_keys_ + first * W_, count, halves);
    }
    void scale_out(const float* factors) {
        for (int64_t i = 0; i < kQueries; ++i) {
            if (!begun_[i / kHalf]) continue;
            float* const row = out_ + i * row_;
#pragma omp simd
            for (int64_t c = 0; c < W_; ++c) row[c] *= factors[i];
        }
    }
    void add_gradients(const float* weights, const float* dscores, int64_t first, int64_t count,
                       const SeenHalves& halves) {
        for (int64_t r = 0; r < 2; ++r) {
            const Run run = run_of(halves.seen[r][0], halves.seen[r][1]);
            if (run.count == 0) continue;
            const int64_t row = first + kHalf * r;
            bool& begun = begun_keys_[row / kHalf];
            for (const auto& [of, left, right, to] :
                 {Operands{weights, weights_, douts_, dvalues_}, {dscores, dscores_, queries_, dkeys_}}) {
                for (int64_t c = run.first; c < run.first + run.count; ++c)
                    pack_left(left + c * kTileElements, 2 * kTileElements, of + kHalf * (r * kQueries + c), kQueries,
                              count - kHalf * r, kHalf);
                const Left a{left + run.first * kTileElements, kTileDepth, 2 * kTileElements, kTileElements};
                for (int64_t d = 0; d < W_; d += kHalf)
                    multiply(to + row * row_ + d, row_, a, depth_at(right, d, run.first), run.count, begun);
            }
            begun = true;
        }
        add_turned(dscores, right_keys_ + first * W_, count, halves);
    }

    const float* out(int64_t i) const {
        return begun_[i / kHalf] ? out_ + i * row_ : zeros();
    }
    const float* dquery(int64_t i) const {
        return out(i);
    }
    const float* dkey(int64_t j) const {
        return begun_keys_[j / kHalf] ? dkeys_ + j * row_ : zeros();
    }
    const float* dvalue(int64_t j) const {
        return begun_keys_[j / kHalf] ? dvalues_ + j * row_ : zeros();
    }
    float key_scale() const {
        return scale_;
    }

  private:
    static constexpr int64_t kHalf = SeenHalves::kHalf;
    static_assert(kHalf == kBlock && kHalf == kTileDepth && kKeys == 2 * kHalf && kQueries == 2 * kHalf);
    static constexpr int64_t kPad = 16;  // of rows of sums: no two of a block share a set of the first-level cache

    // Of two halves of a product's depth those that are wanted.
    struct Run {
        int64_t first, count;
    };
    static Run run_of(bool first, bool second) {
        return {first ? 0 : 1, int64_t{first} + int64_t{second}};
    }

    struct Operands {
        const float* of;
        bf16* left;
        const bf16* right;
        float* to;
    };

    // Rows of left operands, 32 at a time: where they lie, or packed, if tiles would read past them.
    struct LeftRows {
        HeadRows<const bf16> rows{nullptr, 0};
        bf16* packed = nullptr;
        int64_t whole = 0, HS = 0, W = 0;  // whole: rows that are read where they lie

        LeftRows() = default;
        LeftRows(const HeadRows<const bf16>& from, bf16* to, int64_t count, int64_t HS)
            : rows(from),
              packed(to),
              whole(HS % kTileDepth == 0 ? count / kBlock * kBlock : 0),
              HS(HS),
              W(round_up(HS, kTileDepth)) {}
        void pack(int64_t first, int64_t count) const {
            for (int64_t j = std::max(first, whole); j < first + count; j += kBlock)
                for (int64_t c = 0; c < HS; c += kTileDepth)
                    pack_left(packed + j * W + c * kTileRows, kTileRows * W, rows.row(j) + c, rows.stride,
                              std::min(kBlock, first + count - j), std::min(kTileDepth, HS - c));
        }
        Left at(int64_t j) const {
            if (j < whole) return {rows.row(j), rows.stride, kTileRows * rows.stride, kTileDepth};
            return {packed + j * W, kTileDepth, kTileRows * W, kTileElements};
        }
    };

    // 64 rows as columns of a right operand, channels as its depth: for scores.
    void pack_columns(bf16* to, const HeadRows<const bf16>& from, int64_t count) const {
        for (int64_t i = 0; i < count; i += kHalf)
            for (int64_t c = 0; c < HS_; c += kTileDepth)
                pack_right_turned(to + i * W_ + c * kTileRows, kTileRows * W_, from.row(i) + c, from.stride,
                                  std::min(kHalf, count - i), std::min(kTileDepth, HS_ - c));
    }
    // 64 rows as the depth of a right operand, channels as its columns.
    void pack_depth(bf16* to, const HeadRows<const bf16>& from, int64_t count) const {
        for (int64_t c = 0; c < HS_; c += kHalf)
            for (int64_t i = 0; i < count; i += kTileDepth)
                pack_right(to + c * kKeys + i / kTileDepth * kTileElements, 2 * kTileElements, from.row(i) + c,
                           from.stride, std::min(kTileDepth, count - i), std::min(kHalf, HS_ - c));
    }
    static Right depth_at(const bf16* packed, int64_t channel, int64_t half) {
        return {packed + channel * kKeys + half * kTileElements, 2 * kTileElements, kTileElements};
    }

    // to (keys, queries) = rows times columns.
    void multiply_keys(float* to, const LeftRows& rows, const bf16* columns, int64_t first,
                       const SeenHalves& halves) const {
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t c = 0; c < 2; ++c)
                if (halves.seen[r][c])
                    multiply(to + kHalf * (r * kQueries + c), kQueries, rows.at(first + kHalf * r),
                             {columns + c * kHalf * W_, kTileRows * W_, kTileElements}, W_ / kTileDepth, false);
    }
    // out += the transpose of `turned` (keys, queries) times rows (keys, channels).
    void add_turned(const float* turned, const bf16* rows, int64_t count, const SeenHalves& halves) {
        for (int64_t c = 0; c < 2; ++c) {
            const Run run = run_of(halves.seen[0][c], halves.seen[1][c]);
            if (run.count == 0) continue;
            for (int64_t r = run.first; r < run.first + run.count; ++r)
                pack_left_turned(turned_ + r * kTileElements, 2 * kTileElements, turned + kHalf * (r * kQueries + c),
                                 kQueries, count - kHalf * r, kHalf);
            const Left left{turned_ + run.first * kTileElements, kTileDepth, 2 * kTileElements, kTileElements};
            for (int64_t d = 0; d < W_; d += kHalf)
                multiply(out_ + kHalf * c * row_ + d, row_, left, depth_at(rows, d, run.first), run.count, begun_[c]);
            begun_[c] = true;
        }
    }
    // What a row that nothing was added to holds.
    const float* zeros() const {
        float* const row = workspace<struct Zeros, float>(W_);
        std::fill_n(row, W_, 0.0f);
        return row;
    }

    int64_t HS_, W_, row_;
    float scale_;
    bool gradients_;
    LeftRows key_rows_, value_rows_;
    bf16 *left_keys_, *left_values_;        // what is packed of them
    bf16* right_keys_;                      // by depth: values in forward, keys in backward
    bf16 *turned_queries_, *turned_douts_;  // (W, 64)
    bf16 *queries_, *douts_;                // (64, W)
    bf16 *weights_, *dscores_, *turned_;    // (64, 64)
    float *out_, *dkeys_ = nullptr, *dvalues_ = nullptr;
    bool begun_[2] = {};          // whether out's halves have sums
    bool* loaded_;                // whether a tile of keys is packed
    bool* begun_keys_ = nullptr;  // likewise 32 rows each of dkeys and dvalues
};

}  // namespace plimsoll::cpu::amx

namespace plimsoll::cpu {

// Calls f.template operator()<T, Products>() for a floating dtype and the products that this CPU is to use.
template <class F>
void dispatch_products(DType dtype, F&& f) {
    if (dtype == DType::kBF16 && amx::available()) return f.template operator()<bf16, amx::AttentionProducts>();
    dispatch_float(dtype, [&]<class T>() { f.template operator()<T, FloatProducts<T>>(); });
}

}  // namespace plimsoll::cpu
