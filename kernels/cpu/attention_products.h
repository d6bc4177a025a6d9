// The matrix products of a tile of attention, behind one interface: here in the type of sums, by vectors; in
// avx512_bf16/attention_products.h bf16 by blocks. Scores and weights are transposed, (keys, kQueries), and gradients
// of scores likewise. An object is made for a block of queries or a range of keys in a thread's workspace.
#pragma once

#include "kernels/cpu/attention_tile.h"

namespace plimsoll::cpu {

// Which 32 by 32 scores of a tile some query sees, by halves of keys and of queries: products may leave out the others.
// What they leave of those is unspecified where they make scores, and is not read where they take weights.
struct SeenHalves {
    static constexpr int64_t kHalf = 32;
    bool seen[2][2] = {};

    SeenHalves() = default;
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

// Keys at consecutive positions from `position` on: `count` rows of a range from `first` on, a multiple of kKeys.
struct KeyTile {
    int64_t first = 0, position = 0, count = 0;
    SeenHalves halves;
};

// The tiles of a strip that a block of queries sees something of, in ascending order.
template <int64_t kTogether>
class TilesOfStrip {
  public:
    TilesOfStrip(const KeyRange& keys, int64_t first, int64_t end, const QueryBlock& block, const Mask& mask) {
        const int64_t i0 = block.position, i1 = i0 + block.count, limit = mask.keys_end(i0, i1);
        for (int64_t row = first; row < end; row += kKeys) {
            const int64_t j0 = position_of(keys, row), count = std::min(kKeys, end - row);
            if (j0 >= limit || mask.skips(i0, i1, j0, j0 + count)) continue;
            tiles_[count_++] = {row, j0, count, SeenHalves(mask, i0, block.count, j0, count)};
        }
    }
    const KeyTile* begin() const { return tiles_; }
    const KeyTile* end() const { return tiles_ + count_; }

  private:
    KeyTile tiles_[kTogether];
    int64_t count_ = 0;
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
    // Tiles of keys, and in backward blocks of queries, that products have together: they sum over all of these at
    // once.
    static constexpr int64_t kTogether = 1;
    static constexpr bool kWeighsGradients = false;  // whether there is weigh_gradients, which packs what it makes

    // `keys`: how many load_keys will bring at most. Backward wants gradients.
    FloatProducts(const HeadWidths& widths, int64_t keys, R scale, bool gradients)
        : key_{widths.keys}, value_{widths.values}, sum_(gradients ? key_ : value_), scale_(scale) {
        const int64_t rows = round_up(keys, kRows), both = key_.row + value_.row;
        R* at = workspace<FloatProducts, R>((gradients ? 2 : 1) * (rows * both + (widths.keys + both) * kQueries) +
                                            widths.values * kQueries);
        const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
        keys_ = take(rows * key_.row), values_ = take(rows * value_.row);
        query_rows_ = take(kQueries * key_.row), out_ = take(kQueries * sum_.row);
        queries_ = take(widths.keys * kQueries);
        loaded_ = workspace<struct LoadedKeys, bool>(round_up(keys, kKeys) / kKeys);
        if (!gradients) return;
        dkeys_ = take(rows * key_.row), dvalues_ = take(rows * value_.row);
        dout_rows_ = take(kQueries * value_.row), douts_ = take(widths.values * kQueries);
    }

    // Rows of a tile of keys that products read and write beyond those that are there: up to this many.
    static constexpr int64_t padded(int64_t keys) { return round_up(keys, kRows); }

    // The first `count` rows become the queries of a block, one of kTogether; its out, or dq, becomes 0.
    void load_queries(int64_t /*block*/, const HeadRows<const T>& from, int64_t count) {
        pack_rows(query_rows_, from, 0, count, kQueries, key_.channels, key_.row, scale_);
        transpose_halves(queries_, query_rows_, key_.row, key_.channels);
        std::fill_n(out_, kQueries * sum_.row, R(0));
    }
    // Likewise dout, times its factors; null: 1.
    void load_gradients(int64_t /*block*/, const HeadRows<const T>& from, int64_t count, const RowFactors<R>* factors) {
        pack_rows(dout_rows_, from, 0, count, kQueries, value_.channels, value_.row, R(1));
        for (int64_t i = 0; factors && i < count; ++i) {
            R* const row = dout_rows_ + i * value_.row;
#pragma omp simd
            for (int64_t c = 0; c < value_.padded; ++c) row[c] = row[c] * factors->gate[i] * factors->weights[i];
        }
        transpose_halves(douts_, dout_rows_, value_.row, value_.channels);
    }
    // The first `count` rows are keys and values 0 .. count - 1: not read before use_keys asks for them. dk and dv
    // become 0.
    void load_keys(const HeadRows<const T>& keys, const HeadRows<const T>& values, int64_t count) {
        from_keys_ = keys, from_values_ = values;
        std::fill_n(loaded_, round_up(count, kKeys) / kKeys, false);
        if (!dkeys_) return;
        std::fill_n(dkeys_, padded(count) * key_.row, R(0));
        std::fill_n(dvalues_, padded(count) * value_.row, R(0));
    }
    // Before products with tiles of the strip from `first` on.
    void use_strip(int64_t /*first*/) {}
    // Before products with a tile.
    void use_keys(const KeyTile& tile) {
        if (std::exchange(loaded_[tile.first / kKeys], true)) return;
        pack_rows(keys_ + tile.first * key_.row, from_keys_, tile.first, tile.count, padded(tile.count), key_.channels,
                  key_.row, R(1));
        pack_rows(values_ + tile.first * value_.row, from_values_, tile.first, tile.count, padded(tile.count),
                  value_.channels, value_.row, R(1));
    }

    // to = k q^T, to be multiplied by score_scale(), for the keys of a tile and the queries of a block.
    void scores(R* to, int64_t /*block*/, const KeyTile& tile) const {
        multiply_keys(to, keys_, queries_, key_, tile);
    }
    static constexpr R score_scale() {
        return R(1);
    }  // queries were packed with it
    // to = v dout^T.
    void weight_gradients(R* to, int64_t /*block*/, const KeyTile& tile) const {
        multiply_keys(to, values_, douts_, value_, tile);
    }
    // Scores of a tile, times `factor`, become weights; `sum` of each query's grows by them, if it is not null.
    template <class V>
    static void weigh(R* scores, const KeyTile& tile, R /*factor*/, const R* shift, const R* bias, R* sum) {
        for (R* row = scores; row < scores + tile.count * kQueries; row += kQueries) {
            weigh_row<V>(row, row, shift, bias);
            if (!sum) continue;
#pragma omp simd
            for (int64_t i = 0; i < kQueries; ++i) sum[i] += row[i];
        }
    }
    // out += p v, for tiles of the strip: weights (keys of the strip, kQueries).
    void add_values(const R* weights, const TilesOfStrip<kTogether>& tiles) {
        for (const KeyTile& tile : tiles)
            for_seen(tile, [&](int64_t i, int64_t queries, int64_t j, int64_t keys) {
                tile_gemm(out_ + i * value_.row, value_.row, weights + j * kQueries + i, 1, kQueries,
                          values_ + (tile.first + j) * value_.row, value_.row, queries, value_.padded, keys, true);
            });
    }
    // out's rows times their factors.
    void scale_out(const R* factors) {
        for (int64_t i = 0; i < kQueries; ++i) {
            R* row = out_ + i * value_.row;
#pragma omp simd
            for (int64_t c = 0; c < value_.padded; ++c) row[c] *= factors[i];
        }
    }
    // dv += p^T dout, dk += ds^T q, dq += ds k, of a block and a tile. dq has it after finish_queries, the others after
    // finish_keys.
    void add_gradients(const R* weights, const R* dscores, int64_t /*block*/, const KeyTile& tile) {
        for_seen(tile, [&](int64_t i, int64_t queries, int64_t j, int64_t keys) {
            const int64_t first = tile.first + j, of_scores = j * kQueries + i, row = key_.row, wide = value_.row;
            tile_gemm(dvalues_ + first * wide, wide, weights + of_scores, kQueries, 1, dout_rows_ + i * wide, wide,
                      padded(keys), value_.padded, queries, true);
            tile_gemm(dkeys_ + first * row, row, dscores + of_scores, kQueries, 1, query_rows_ + i * row, row,
                      padded(keys), key_.padded, queries, true);
            tile_gemm(out_ + i * row, row, dscores + of_scores, 1, kQueries, keys_ + first * row, row, queries,
                      key_.padded, keys, true);
        });
    }
    // After the tiles of a strip with a block; `last`: of the range.
    void finish_queries(int64_t /*block*/, bool /*last*/) {}
    // After the blocks with the strip first .. end - 1. If they are the last, calls f(j, dkey, dvalue) for its rows,
    // those of dkey to be multiplied by key_scale().
    template <class F>
    void finish_keys(int64_t first, int64_t end, bool last, F&& f) {
        for (int64_t j = first; last && j < end; ++j) f(j, dkeys_ + j * key_.row, dvalues_ + j * value_.row);
    }

    // A row of what was summed, times one factor and then the other, rounded.
    static void unpack(T* to, const R* from, int64_t HS, R scale, R gate = R(1)) {
        unpack_row(to, from, HS, scale, gate);
    }
    // The sum of a[c] b[c].
    static R dot(const T* a, const T* b, int64_t HS) {
        return lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(a[c]) * static_cast<R>(b[c]); });
    }

    // Rows; those of dq are to be multiplied by scale.
    const R* out(int64_t i) const {
        return out_ + i * sum_.row;
    }
    const R* dquery(int64_t /*block*/, int64_t i) const {
        return out_ + i * sum_.row;
    }
    R key_scale() const {
        return R(1);
    }  // queries were packed with it

  private:
    static constexpr int64_t kHalf = SeenHalves::kHalf;
    static constexpr int64_t kPad = 16;  // of rows: no few of them share a set of the first-level cache

    struct Width {
        int64_t channels, padded = round_up(channels, kPanel), row = padded + kPad;  // row: from one to the next
    };

    // Calls f(first query, queries, first key, keys) for parts of a tile that hold every half some query sees.
    template <class F>
    static void for_seen(const KeyTile& tile, F&& f) {
        struct Keys {
            int64_t begin, end;
            bool operator==(const Keys&) const = default;
        };
        const auto seen_by = [&](int64_t half) {
            const bool low = tile.halves.seen[0][half], high = tile.halves.seen[1][half];
            return Keys{low ? 0 : kHalf, high ? tile.count : low ? std::min(kHalf, tile.count) : kHalf};
        };
        const Keys first = seen_by(0), second = seen_by(1);
        if (first == second && first.begin < first.end)
            return f(int64_t{0}, kQueries, first.begin, first.end - first.begin);
        for (int64_t half = 0; half < 2; ++half)
            if (const Keys keys = half == 0 ? first : second; keys.begin < keys.end)
                f(kHalf * half, kHalf, keys.begin, keys.end - keys.begin);
    }
    // Rows of the tile's keys times columns of queries, in halves.
    static void multiply_keys(R* to, const R* rows, const R* columns, const Width& width, const KeyTile& tile) {
        for_seen(tile, [&](int64_t i, int64_t queries, int64_t j, int64_t keys) {
            for (int64_t end = i + queries; i < end; i += kHalf)
                tile_gemm(to + j * kQueries + i, kQueries, rows + (tile.first + j) * width.row, width.row, 1,
                          columns + i * width.channels, kHalf, padded(keys), kHalf, width.channels, false);
        });
    }

    Width key_, value_, sum_;  // sum_: of out, or dq
    R scale_;
    HeadRows<const T> from_keys_{nullptr, 0}, from_values_{nullptr, 0};
    bool* loaded_;                                               // by tiles
    R *keys_, *values_, *dkeys_ = nullptr, *dvalues_ = nullptr;  // (n, padded) each
    R *query_rows_, *queries_, *out_;                            // (64, padded), (2, HS, 32), (64, padded)
    R *dout_rows_ = nullptr, *douts_ = nullptr;                  // (64, padded), (2, VS, 32)
};

}  // namespace plimsoll::cpu
