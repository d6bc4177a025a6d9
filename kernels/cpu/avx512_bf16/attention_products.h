// The products of FloatProducts (kernels/cpu/attention_products.h) for bf16, by blocks (blocks.h), with sums in fp32.
//
// Rounded to bf16 before they are multiplied: weights, gradients of scores, and dout where it has factors. Scores are
// scaled in fp32, as they are weighed where they can. Sums run over kTogether tiles of keys, or blocks of queries,
// before they go to memory, and where nothing was there before and nothing comes after, to memory that is used again.
// Left operands of scores are keys and values where they lie; everything else is packed: queries and dout once per
// block of queries, keys and values once per tile or, in backward, per range.
#pragma once

#include <bit>

#include "kernels/cpu/attention_products.h"
#include "kernels/cpu/avx512_bf16/attention_rows.h"
#include "kernels/cpu/avx512_bf16/blocks.h"

namespace plimsoll::cpu::avx512_bf16 {

class AttentionProducts {
  public:
    using R = float;
    using Scope = TileScope;
    static constexpr int64_t kTogether = 4;
    static constexpr bool kWeighsGradients = true;

    AttentionProducts(const HeadWidths& widths, int64_t keys, float scale, bool gradients)
        : key_{widths.keys},
          value_{widths.values},
          sum_(gradients ? key_ : value_),
          across_keys_(round_up(keys, kKeys) * kTileRows),
          scale_(scale),
          gradients_(gradients) {
        const int64_t rows = round_up(keys, kKeys), queries = (gradients ? kTogether : 1) * kQueries;
        const int64_t both = key_.padded + value_.padded, of_scores = kTogether * kQueries * kKeys;
        bf16* at = workspace<AttentionProducts, bf16>(rows * (both + sum_.padded) +
                                                      queries * (gradients ? 2 * both : key_.padded) +
                                                      (gradients ? 2 * kTogether + 1 : 1) * of_scores);
        const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
        left_keys_ = take(rows * key_.padded), left_values_ = take(rows * value_.padded);
        right_keys_ = take(rows * sum_.padded);
        turned_queries_ = take(queries * key_.padded), turned_ = take(of_scores);
        float* sums = workspace<struct AttentionSums, float>(
            queries * sum_.row + (gradients ? (rows + kHalf) * (key_.row + value_.row) : 0));
        const auto take_sums = [&](int64_t count) { return std::exchange(sums, sums + count); };
        out_ = take_sums(queries * sum_.row);
        loaded_ = workspace<struct LoadedTiles, bool>(rows / kKeys);
        if (!gradients) return;
        turned_douts_ = take(queries * value_.padded);
        queries_ = take(queries * key_.padded), douts_ = take(queries * value_.padded);
        weights_ = take(kTogether * of_scores), dscores_ = take(kTogether * of_scores);
        rows_of_keys_ = rows;
        dkeys_ = take_sums((rows + kHalf) * key_.row), dvalues_ = take_sums((rows + kHalf) * value_.row);
        begun_keys_ = workspace<struct BegunKeys, bool>(rows / kHalf);
    }

    static constexpr int64_t padded(int64_t keys) { return keys; }

    void load_queries(int64_t block, const HeadRows<const bf16>& from, int64_t count) {
        pack_columns(turned_queries_ + block * kQueries * key_.padded, from, count, key_);
        if (gradients_) pack_depth(queries_ + block * kBlockDepth, kAcrossQueries, from, count, key_);
        begun_[2 * block] = begun_[2 * block + 1] = false;
        place_[block] = block * kQueries;
    }
    void load_gradients(int64_t block, const HeadRows<const bf16>& from, int64_t count,
                        const RowFactors<float>* factors) {
        HeadRows<const bf16> rows = from;
        if (factors) {
            const int64_t VS = value_.channels;
            bf16* const scaled = workspace<struct ScaledGradients, bf16>(kQueries * VS);
            for (int64_t i = 0; i < count; ++i)
                for (int64_t c = 0; c < VS; ++c)
                    store(scaled[i * VS + c],
                          static_cast<float>(from.row(i)[c]) * factors->gate[i] * factors->weights[i]);
            rows.data = scaled, rows.stride = VS;
        }
        pack_columns(turned_douts_ + block * kQueries * value_.padded, rows, count, value_);
        pack_depth(douts_ + block * kBlockDepth, kAcrossQueries, rows, count, value_);
    }
    void load_keys(const HeadRows<const bf16>& keys, const HeadRows<const bf16>& values, int64_t count) {
        key_rows_ = LeftRows(keys, left_keys_, count, key_);
        value_rows_ = LeftRows(values, left_values_, count, value_);
        std::fill_n(loaded_, round_up(count, kKeys) / kKeys, false);
        if (gradients_) std::fill_n(begun_keys_, (count + kHalf - 1) / kHalf, false);
    }
    void use_strip(int64_t first) { strip_ = first; }
    void use_keys(const KeyTile& tile) {
        if (std::exchange(loaded_[tile.first / kKeys], true)) return;
        const HeadRows<const bf16>& by_depth = gradients_ ? key_rows_.rows : value_rows_.rows;
        pack_depth(right_keys_ + tile.first * kTileRows, across_keys_, {by_depth.row(tile.first), by_depth.stride},
                   tile.count, sum_);
        key_rows_.pack(tile.first, tile.count);
        if (gradients_) value_rows_.pack(tile.first, tile.count);
    }

    void scores(float* to, int64_t block, const KeyTile& tile) const {
        multiply_keys(to, key_rows_, turned_queries_ + block * kQueries * key_.padded, key_, tile);
    }
    float score_scale() const { return scale_; }
    void weight_gradients(float* to, int64_t block, const KeyTile& tile) const {
        multiply_keys(to, value_rows_, turned_douts_ + block * kQueries * value_.padded, value_, tile);
    }
    template <class V>
    static void weigh(float* scores, const KeyTile& tile, float factor, const float* shift, const float* bias,
                      float* sum) {
        avx512_bf16::weigh<V>(scores, tile.count, factor, shift, bias, sum);
    }
    void add_values(const float* weights, const TilesOfStrip<kTogether>& tiles) {
        for (const KeyTile& tile : tiles)
            for (int64_t r = 0; r < 2; ++r)
                for (int64_t c = 0; c < 2; ++c)
                    if (tile.halves.seen[r][c])
                        pack_turned(weights + (tile.first - strip_ + kHalf * r) * kQueries + kHalf * c, kQueries,
                                    half_of(tile, r), c, tile.count - kHalf * r);
        add_turned(0);
    }
    void scale_out(const float* factors) {
        for (int64_t i = 0; i < kQueries; ++i) {
            if (!begun_[i / kHalf]) continue;
            float* const row = out_ + i * value_.row;
#pragma omp simd
            for (int64_t c = 0; c < value_.padded; ++c) row[c] *= factors[i];
        }
    }
    // For add_gradients, from scores to be multiplied by `factor` and dL/dp, which becomes dL/ds.
    template <class V>
    void weigh_gradients(const float* scores, float* gradients, float factor, const float* lse, const float* bias,
                         const float* delta, int64_t block, const KeyTile& tile) {
        for (int64_t r = 0; r < 2; ++r) {
            const int64_t to = block_of(tile, r, block, 0), keys = std::min(kHalf, tile.count - kHalf * r);
            avx512_bf16::weigh_gradients<V>(weights_ + to, dscores_ + to, 2 * kTileElements,
                                            scores + kHalf * r * kQueries, gradients + kHalf * r * kQueries, keys,
                                            factor, lse, bias, delta);
        }
    }
    // weights: null if weigh_gradients made them and dscores.
    void add_gradients(const float* weights, const float* dscores, int64_t block, const KeyTile& tile) {
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t c = 0; c < 2; ++c) {
                if (!tile.halves.seen[r][c]) continue;
                const int64_t half = half_of(tile, r), at = kHalf * (r * kQueries + c),
                              to = block_of(tile, r, block, c);
                const int64_t keys = tile.count - kHalf * r;
                if (weights) {
                    pack_left(weights_ + to, kTileElements, weights + at, kQueries, keys, kHalf);
                    pack_left(dscores_ + to, kTileElements, dscores + at, kQueries, keys, kHalf);
                }
                of_keys_[half] |= 1u << (2 * block + c);
                pack_turned(dscores_ + to, kTileDepth, half, c, keys);
            }
    }
    void finish_queries(int64_t block, bool last) {
        // All in one go: the first block's rows, which have been read if they held anything.
        if (last && !begun_[2 * block] && !begun_[2 * block + 1]) place_[block] = 0;
        add_turned(block);
    }
    template <class F>
    void finish_keys(int64_t first, int64_t end, bool last, F&& f) {
        for (int64_t row = first; row < end; row += kHalf) {
            const int64_t half = (row - first) / kHalf, from = half * kHalves * 2 * kTileElements;
            bool& begun = begun_keys_[row / kHalf];
            const int64_t place = last && !begun ? rows_of_keys_ : row;
            for_each_run(std::exchange(of_keys_[half], 0), [&](int64_t run, int64_t count) {
                const int64_t at = from + run * 2 * kTileElements;
                for (const auto& [left, right, to, width] :
                     {Operands{weights_, douts_, dvalues_, value_}, {dscores_, queries_, dkeys_, key_}})
                    for (int64_t d = 0; d < width.padded; d += kHalf)
                        multiply(to + place * width.row + d, width.row,
                                 {left + at, kTileDepth, kTileElements, 2 * kTileElements},
                                 depth_at(right, kAcrossQueries, d, run), count, begun);
                begun = true;
            });
            const int64_t stop = std::min(row + kHalf, end);
            for (int64_t j = row; last && j < stop; ++j) {
                const int64_t at = place + j - row;
                f(j, begun ? dkeys_ + at * key_.row : zeros(), begun ? dvalues_ + at * value_.row : zeros());
            }
        }
    }

    static void unpack(bf16* to, const float* from, int64_t HS, float scale, float gate = 1) {
        store_scaled(to, from, HS, scale, gate);
    }
    static float dot(const bf16* a, const bf16* b, int64_t HS) {
        return avx512_bf16::dot(a, b, HS);
    }

    const float* out(int64_t i) const {
        return dquery(0, i);
    }
    const float* dquery(int64_t block, int64_t i) const {
        return begun_[2 * block + i / kHalf] ? out_ + (place_[block] + i) * sum_.row : zeros();
    }
    float key_scale() const {
        return scale_;
    }

  private:
    static constexpr int64_t kHalf = SeenHalves::kHalf;
    static_assert(kTileQueries == kQueries && kHalf == kBlock && kHalf == kTileDepth && kKeys == 2 * kHalf &&
                  kQueries == 2 * kHalf);
    static constexpr int64_t kPad = 16;  // of rows of sums: no two of a block share a set of the first-level cache

    static constexpr int64_t kHalves = 2 * kTogether;  // of a strip's keys, or of the blocks of queries together
    // Operands with queries as their depth: elements from a block to the next, and from 16 channels to the next.
    static constexpr int64_t kBlockDepth = 2 * kTileElements, kAcrossQueries = kHalves * kTileElements;

    struct Width {
        int64_t channels, padded = round_up(channels, kTileDepth), row = padded + kPad;  // row: of sums
    };
    struct Operands {
        const bf16 *left, *right;
        float* to;
        const Width& width;
    };

    // Calls f(first, count) for the runs of set bits, in ascending order.
    template <class F>
    static void for_each_run(uint32_t bits, F&& f) {
        while (bits != 0) {
            const int first = std::countr_zero(bits), count = std::countr_one(bits >> first);
            f(first, count);
            bits &= ~((1u << (first + count)) - 1);
        }
    }
    // Which half of the strip's keys a tile's half r is.
    int64_t half_of(const KeyTile& tile, int64_t r) const {
        return (tile.first - strip_) / kHalf + r;
    }
    // Where weights_ and dscores_ have half r of a tile's keys and half c of a block of queries.
    int64_t block_of(const KeyTile& tile, int64_t r, int64_t block, int64_t c) const {
        return (half_of(tile, r) * kHalves + 2 * block + c) * 2 * kTileElements;
    }

    // Rows of left operands, 32 at a time: where they lie, or packed, if tiles would read past them.
    struct LeftRows {
        HeadRows<const bf16> rows{nullptr, 0};
        bf16* packed = nullptr;
        int64_t whole = 0;  // rows that are read where they lie
        Width width{0};

        LeftRows() = default;
        LeftRows(const HeadRows<const bf16>& from, bf16* to, int64_t count, const Width& width)
            : rows(from),
              packed(to),
              whole(width.channels == width.padded ? count / kBlock * kBlock : 0),
              width(width) {}
        void pack(int64_t first, int64_t count) const {
            for (int64_t j = std::max(first, whole); j < first + count; j += kBlock)
                for (int64_t c = 0; c < width.channels; c += kTileDepth)
                    pack_left(packed + j * width.padded + c * kTileRows, kTileRows * width.padded, rows.row(j) + c,
                              rows.stride, std::min(kBlock, first + count - j),
                              std::min(kTileDepth, width.channels - c));
        }
        Left at(int64_t j) const {
            if (j < whole) return {rows.row(j), rows.stride, kTileRows * rows.stride, kTileDepth};
            return {packed + j * width.padded, kTileDepth, kTileRows * width.padded, kTileElements};
        }
    };

    // 64 rows as columns of a right operand, channels as its depth: for scores.
    static void pack_columns(bf16* to, const HeadRows<const bf16>& from, int64_t count, const Width& width) {
        for (int64_t i = 0; i < count; i += kHalf)
            for (int64_t c = 0; c < width.channels; c += kTileDepth)
                pack_right_turned(to + i * width.padded + c * kTileRows, kTileRows * width.padded, from.row(i) + c,
                                  from.stride, std::min(kHalf, count - i), std::min(kTileDepth, width.channels - c));
    }
    // 64 rows as the depth of a right operand, channels as its columns, 16 of them `across` elements from the next.
    static void pack_depth(bf16* to, int64_t across, const HeadRows<const bf16>& from, int64_t count,
                           const Width& width) {
        for (int64_t c = 0; c < width.channels; c += kHalf)
            for (int64_t i = 0; i < count; i += kTileDepth)
                pack_right(to + c / kTileRows * across + i / kTileDepth * kTileElements, across, from.row(i) + c,
                           from.stride, std::min(kTileDepth, count - i), std::min(kHalf, width.channels - c));
    }
    static Right depth_at(const bf16* packed, int64_t across, int64_t channel, int64_t half) {
        return {packed + channel / kTileRows * across + half * kTileElements, across, kTileElements};
    }

    // to (keys, queries) = rows times columns.
    static void multiply_keys(float* to, const LeftRows& rows, const bf16* columns, const Width& width,
                              const KeyTile& tile) {
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t c = 0; c < 2; ++c)
                if (tile.halves.seen[r][c])
                    multiply(to + kHalf * (r * kQueries + c), kQueries, rows.at(tile.first + kHalf * r),
                             {columns + c * kHalf * width.padded, kTileRows * width.padded, kTileElements},
                             width.padded / kTileDepth, false);
    }
    // The transpose of a half of the strip's keys by half c of queries becomes part of a left operand with the strip's
    // keys as its depth.
    template <class Element>
    void pack_turned(const Element* from, int64_t row, int64_t half, int64_t c, int64_t keys) {
        pack_left_turned(turned_ + (c * kHalves + half) * 2 * kTileElements, kTileElements, from, row, keys, kHalf);
        of_queries_[c] |= 1u << half;
    }
    // out of a block += what was packed times rows (keys, channels).
    void add_turned(int64_t block) {
        for (int64_t c = 0; c < 2; ++c) {
            bool& begun = begun_[2 * block + c];
            float* const to = out_ + (place_[block] + kHalf * c) * sum_.row;
            for_each_run(std::exchange(of_queries_[c], 0), [&](int64_t run, int64_t count) {
                const Left left{turned_ + (c * kHalves + run) * 2 * kTileElements, kTileDepth, kTileElements,
                                2 * kTileElements};
                for (int64_t d = 0; d < sum_.padded; d += kHalf)
                    multiply(to + d, sum_.row, left, depth_at(right_keys_, across_keys_, d, strip_ / kHalf + run),
                             count, begun);
                begun = true;
            });
        }
    }
    // What a row that nothing was added to holds.
    const float* zeros() const {
        const int64_t width = std::max(key_.padded, value_.padded);
        float* const row = workspace<struct Zeros, float>(width);
        std::fill_n(row, width, 0.0f);
        return row;
    }

    Width key_, value_, sum_;  // sum_: of out, or dq, and so of right_keys_
    int64_t across_keys_;
    int64_t rows_of_keys_ = 0;  // of dkeys and dvalues; 32 more for sums that are made in one go
    float scale_;
    bool gradients_;
    LeftRows key_rows_, value_rows_;
    bf16 *left_keys_, *left_values_;                       // what is packed of them
    bf16* right_keys_;                                     // by depth: values in forward, keys in backward
    bf16 *turned_queries_, *turned_douts_ = nullptr;       // (padded, 64) each block
    bf16 *queries_ = nullptr, *douts_ = nullptr;           // (64, padded)
    bf16 *weights_ = nullptr, *dscores_ = nullptr;         // (keys, queries) of a strip and the blocks
    bf16* turned_;                                         // (queries, keys) of a strip and a block
    int64_t strip_ = 0;                                    // the strip's first row
    uint32_t of_keys_[kHalves] = {}, of_queries_[2] = {};  // which halves of their depth these have, as bits
    float *out_, *dkeys_ = nullptr, *dvalues_ = nullptr;
    int64_t place_[kTogether] = {};  // where the sums of a block of queries are in out_
    bool begun_[kHalves] = {};       // whether out's halves have sums
    bool* loaded_;                   // whether a tile of keys is packed
    bool* begun_keys_ = nullptr;     // likewise 32 rows each of dkeys and dvalues
};

}  // namespace plimsoll::cpu::avx512_bf16

namespace plimsoll::cpu {

// Calls f.template operator()<T, Products>() for a floating dtype and the products that this CPU is to use.
template <class F>
void dispatch_products(DType dtype, F&& f) {
    if (dtype == DType::kBF16 && avx512_bf16::available())
        return f.template operator()<bf16, avx512_bf16::AttentionProducts>();
    dispatch_float(dtype, [&]<class T>() { f.template operator()<T, FloatProducts<T>>(); });
}

}  // namespace plimsoll::cpu
