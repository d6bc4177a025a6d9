// The matrix products of a tile of attention, behind one interface: here in the type of sums, by vectors; in
// amx/attention_products.h bf16 by AMX tiles. Scores and weights are transposed, (keys, kQueries), and gradients of
// scores likewise. An object is made for a block of queries or a range of keys in a thread's workspace.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace plimsoll::cpu {

// Which 32 by 32 scores of a tile some query sees, by halves of keys and of queries: products may leave out the others.
// What they leave of those is unspecified where they make scores, and is not read where they take weights.
struct SeenHalves {
    static constexpr int64_t kHalf = 32;
    bool seen[2][2];

    SeenHalves(const Mask& mask, int64_t i0, int64_t queries, int64_t j0, int64_t keys) {
        const bool all = mask.passes(i0, i0 + kQueries, j0, j0 + kKeys);
        for (int64_t r = 0; r < 2; ++r)
            for (int64_t c = 0; c < 2; ++c) {
                const int64_t i = i0 + kHalf * c, j = j0 + kHalf * r;
                seen[r][c] =
                    kHalf * r < keys && kHalf * c < queries && (all || !mask.skips(i, i + kHalf, j, j + kHalf));
            }
    }
};

// A factor of each query's row of dout.
template <class R>
struct RowFactors {
    R gate[kQueries], weights[kQueries];
};

template <class T>
class FloatProducts {
  public:
    using R = Accumulator<T>;
    struct Scope {};  // lives while a thread multiplies

    // `keys`: how many load_keys will bring at most. Backward wants gradients.
    FloatProducts(int64_t HS, int64_t keys, R scale, bool gradients)
        : HS_(HS), W_(round_up(HS, kPanel)), scale_(scale) {
        const int64_t rows = round_up(keys, kRows), kept = gradients ? 4 : 2, blocks = gradients ? 3 : 2;
        R* at = workspace<FloatProducts, R>(kept * rows * W_ + blocks * kQueries * W_ + 2 * HS * kQueries);
        const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
        keys_ = take(rows * W_), values_ = take(rows * W_);
        query_rows_ = take(kQueries * W_), out_ = take(kQueries * W_);
        queries_ = take(HS * kQueries);
        loaded_ = workspace<struct LoadedKeys, bool>(round_up(keys, kKeys) / kKeys);
        if (!gradients) return;
        dkeys_ = take(rows * W_), dvalues_ = take(rows * W_);
        dout_rows_ = take(kQueries * W_), douts_ = take(HS * kQueries);
    }

    // Rows of a tile of keys that products read and write beyond those that are there: up to this many.
    static constexpr int64_t padded(int64_t keys) { return round_up(keys, kRows); }

    // The first `count` rows become queries 0 .. count - 1; out, or dq, becomes 0.
    void load_queries(const HeadRows<const T>& from, int64_t count) {
        pack_rows(query_rows_, from, 0, count, kQueries, HS_, W_, scale_);
        transpose_rows(queries_, query_rows_, HS_, W_);
        std::fill_n(out_, kQueries * W_, R(0));
    }
    // Likewise dout, times its factors; null: 1.
    void load_gradients(const HeadRows<const T>& from, int64_t count, const RowFactors<R>* factors) {
        pack_rows(dout_rows_, from, 0, count, kQueries, HS_, W_, R(1));
        for (int64_t i = 0; factors && i < count; ++i) {
            R* const row = dout_rows_ + i * W_;
#pragma omp simd
            for (int64_t c = 0; c < W_; ++c) row[c] = row[c] * factors->gate[i] * factors->weights[i];
        }
        transpose_rows(douts_, dout_rows_, HS_, W_);
    }
    // The first `count` rows are keys and values 0 .. count - 1: not read before use_keys asks for them. dk and dv
    // become 0.
    void load_keys(const HeadRows<const T>& keys, const HeadRows<const T>& values, int64_t count) {
        from_keys_ = keys, from_values_ = values;
        std::fill_n(loaded_, round_up(count, kKeys) / kKeys, false);
        if (!dkeys_) return;
        std::fill_n(dkeys_, padded(count) * W_, R(0));
        std::fill_n(dvalues_, padded(count) * W_, R(0));
    }
    // Before products with a tile of `count` keys from `first` on, a multiple of kKeys.
    void use_keys(int64_t first, int64_t count) {
        if (std::exchange(loaded_[first / kKeys], true)) return;
        pack_rows(keys_ + first * W_, from_keys_, first, count, padded(count), HS_, W_, R(1));
        pack_rows(values_ + first * W_, from_values_, first, count, padded(count), HS_, W_, R(1));
    }

    // to = scale k q^T, for the keys of a tile.
    void scores(R* to, int64_t first, int64_t count, const SeenHalves& /*halves*/) const {
        multiply_keys(to, keys_ + first * W_, queries_, count);
    }
    // to = v dout^T.
    void weight_gradients(R* to, int64_t first, int64_t count, const SeenHalves& /*halves*/) const {
        multiply_keys(to, values_ + first * W_, douts_, count);
    }
    // out += p v.
    void add_values(const R* weights, int64_t first, int64_t count, const SeenHalves& /*halves*/) {
        tile_gemm(out_, W_, weights, 1, kQueries, values_ + first * W_, W_, kQueries, W_, count);
    }
    // out's rows times their factors.
    void scale_out(const R* factors) {
        for (int64_t i = 0; i < kQueries; ++i) {
            R* row = out_ + i * W_;
#pragma omp simd
            for (int64_t c = 0; c < W_; ++c) row[c] *= factors[i];
        }
    }
    // dv += p^T dout, dk += ds^T q, dq += ds k.
    void add_gradients(const R* weights, const R* dscores, int64_t first, int64_t count, const SeenHalves& /*halves*/) {
        const int64_t rows = padded(count), at = first * W_;
        tile_gemm(dvalues_ + at, W_, weights, kQueries, 1, dout_rows_, W_, rows, W_, kQueries);
        tile_gemm(dkeys_ + at, W_, dscores, kQueries, 1, query_rows_, W_, rows, W_, kQueries);
        tile_gemm(out_, W_, dscores, 1, kQueries, keys_ + at, W_, kQueries, W_, count);
    }

    // Rows of HS elements; those of dk and dq are to be multiplied by key_scale() and scale.
    const R* out(int64_t i) const {
        return out_ + i * W_;
    }
    const R* dquery(int64_t i) const {
        return out_ + i * W_;
    }
    const R* dkey(int64_t j) const {
        return dkeys_ + j * W_;
    }
    const R* dvalue(int64_t j) const {
        return dvalues_ + j * W_;
    }
    R key_scale() const {
        return R(1);
    }  // queries were packed with it

  private:
    void multiply_keys(R* to, const R* rows, const R* columns, int64_t count) const {
        std::fill_n(to, padded(count) * kQueries, R(0));
        tile_gemm(to, kQueries, rows, W_, 1, columns, kQueries, padded(count), kQueries, HS_);
    }

    int64_t HS_, W_;
    R scale_;
    HeadRows<const T> from_keys_{nullptr, 0}, from_values_{nullptr, 0};
    bool* loaded_;                                               // by tiles
    R *keys_, *values_, *dkeys_ = nullptr, *dvalues_ = nullptr;  // (n, W) each
    R *query_rows_, *queries_, *out_;                            // (64, W), (HS, 64), (64, W)
    R *dout_rows_ = nullptr, *douts_ = nullptr;                  // (64, W), (HS, 64)
};

}  // namespace plimsoll::cpu
