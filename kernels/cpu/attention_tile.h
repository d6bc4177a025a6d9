// What the tiled attention kernels are made of: packing, one small matrix product, scores of a tile.
//
// A tile is kQueries queries by kKeys keys of one head and document. Lanes of a vector are queries: scores are kept
// transposed, S^T (keys, queries), so that row maxima and sums of softmax are elementwise across a vector. Sizes are
// padded with zeros: head channels to a multiple of kPanel, queries and keys to whole tiles.
#pragma once

#include <array>
#include <cstring>

#include "kernels/attention/row.h"
#include "kernels/attention/variants.h"
#include "kernels/attention_tasks.h"
#include "kernels/cpu/avx512/panels.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {

inline constexpr int64_t kQueries = 64;
inline constexpr int64_t kKeys = 64;
inline constexpr int64_t kPanel = 32;  // columns of a product are padded to a multiple of this
inline constexpr int64_t kRows = 8;    // and rows to this: the register block is kRows x 2 vectors

// One register of the target: GCC 12 makes very slow code of vectors wider than that.
template <class T>
struct VectorOf {
    static constexpr int64_t kBytes = __BIGGEST_ALIGNMENT__;
    typedef T type __attribute__((vector_size(kBytes)));
    static constexpr int64_t kSize = kBytes / static_cast<int64_t>(sizeof(T));
};

// c (M, N) = a (M, K) b (K, N), or += for `accumulate`: c and b row-major with row lengths N' = `c_row`, `b_row`, a
// element (m, k) at m * a_row + k * a_k. M is a multiple of kRows, N of kPanel (padding included), c and b are 64-byte
// aligned. K ascends.
template <class T>
inline void tile_gemm(T* c, int64_t c_row, const T* a, int64_t a_row, int64_t a_k, const T* b, int64_t b_row, int64_t M,
                      int64_t N, int64_t K, bool accumulate) {
    using Vector = typename VectorOf<T>::type;
    constexpr int64_t kSize = VectorOf<T>::kSize;
    for (int64_t n = 0; n < N; n += 2 * kSize) {
        for (int64_t m = 0; m < M; m += kRows) {
            Vector sum[kRows][2];
            for (int64_t r = 0; r < kRows; ++r) {
                const auto* from = reinterpret_cast<const Vector*>(c + (m + r) * c_row + n);
                sum[r][0] = accumulate ? from[0] : Vector{}, sum[r][1] = accumulate ? from[1] : Vector{};
            }
            const T* left = a + m * a_row;
            const T* right = b + n;
            for (int64_t k = 0; k < K; ++k) {
                const auto* columns = reinterpret_cast<const Vector*>(right + k * b_row);
                const Vector first = columns[0], second = columns[1];
#pragma GCC unroll 8
                for (int64_t r = 0; r < kRows; ++r) {
                    const T x = left[r * a_row + k * a_k];
                    sum[r][0] += x * first;
                    sum[r][1] += x * second;
                }
            }
            for (int64_t r = 0; r < kRows; ++r) {
                auto* to = reinterpret_cast<Vector*>(c + (m + r) * c_row + n);
                to[0] = sum[r][0], to[1] = sum[r][1];
            }
        }
    }
}

// Up to kQueries queries of one task, which begin at a multiple of kQueries of their document, or where the task does.
struct QueryBlock {
    int64_t row, position, count;
};

// Calls f(block) for the blocks of a task, in ascending order.
template <class F>
inline void for_each_block(const AttentionTask& task, F&& f) {
    for (int64_t i = 0; i < task.count;) {
        const int64_t position = task.position + i;
        const int64_t count = std::min(kQueries - position % kQueries, task.count - i);
        f(QueryBlock{task.row + i, position, count});
        i += count;
    }
}

// The position of a row of a range, counted from its first.
inline int64_t position_of(const KeyRange& keys, int64_t row) {
    return row < keys.prefix ? row : row - keys.prefix + keys.begin;
}

// Calls f(first, end) for the strips of a range's keys before position `limit`, in ascending order: rows of the range,
// kTogether tiles at most, at positions with one multiple of that many before them. So a strip's tiles do not depend on
// which other keys the range has.
template <int64_t kTogether, class F>
inline void for_each_strip(const KeyRange& keys, int64_t limit, F&& f) {
    static_assert(kKeyBlock % kKeys == 0);
    const int64_t rows = keys.rows();
    const auto strip_of = [&](int64_t row) { return position_of(keys, row) / (kTogether * kKeys); };
    for (int64_t first = 0, end = 0; first < rows && position_of(keys, first) < limit; first = end) {
        do end += kKeys;
        while (end < rows && strip_of(end) == strip_of(first));
        f(first, std::min(end, rows));
    }
}

// Every document of a call as one task on a range of all its keys, in memory that lasts until the next such call.
inline AttentionTasks tasks_of(std::span<const int32_t> cu_seqlens) {
    const size_t documents = cu_seqlens.size() - 1;
    const std::span keys(workspace<KeyRange, KeyRange>(static_cast<int64_t>(documents)), documents);
    const std::span tasks(workspace<AttentionTask, AttentionTask>(static_cast<int64_t>(documents)), documents);
    for (size_t d = 0; d < documents; ++d) {
        const int64_t begin = cu_seqlens[d], n = cu_seqlens[d + 1] - begin;
        keys[d] = {.row = begin, .end = n};
        tasks[d] = {.row = begin, .count = n, .keys = static_cast<int64_t>(d)};
    }
    return {keys, tasks};
}

// One head of a (N, H, HS) tensor from row `begin` on.
template <class T>
struct HeadRows {
    T* data;
    int64_t stride;  // from token to token
    HeadRows(T* data, int64_t stride) : data(data), stride(stride) {}
    HeadRows(Tensor t, int64_t head, int64_t begin)
        : HeadRows(t.ptr<std::remove_const_t<T>>() + begin * t.row_stride + head * t.shape[2], t.row_stride) {}
    T* row(int64_t i) const { return data + i * stride; }
};

// How many channels a head has: its queries and keys; its values and outputs.
struct HeadWidths {
    int64_t keys, values;
};
inline HeadWidths widths_of(const AttentionTensors& t) {
    return {t.q.shape[2], t.v.shape[2]};
}

// A head's learned value of a tensor (NH), 0 without one.
template <class R>
inline double of_head(Tensor t, int64_t head) {
    return t ? static_cast<double>(t.ptr<R>()[head]) : 0;
}

// to (rows, width) row-major = from[first .. first + count) * scale, the rest zero.
template <class R, class T>
inline void pack_rows(R* to, const HeadRows<T>& from, int64_t first, int64_t count, int64_t rows, int64_t HS,
                      int64_t width, R scale) {
    for (int64_t i = 0; i < rows; ++i) {
        R* row = to + i * width;
        if (i >= count) {
            std::fill_n(row, width, R(0));
            continue;
        }
        const T* source = from.row(first + i);
#pragma omp simd
        for (int64_t c = 0; c < HS; ++c) row[c] = static_cast<R>(source[c]) * scale;
        std::fill(row + HS, row + width, R(0));
    }
}

// to (2, HS, kQueries / 2) = the transposes of the halves of packed rows (kQueries, HS), `row` elements apart.
template <class R>
inline void transpose_halves(R* to, const R* rows, int64_t row, int64_t HS) {
    constexpr int64_t kHalf = kQueries / 2, kBlock = 16;
    if constexpr (std::is_same_v<R, float> && kHalf == avx512::kPanelColumns)
        if (avx512::available()) return avx512::pack_right(to, HS * kHalf, rows, row, 1, kQueries, HS);
    for (int64_t c0 = 0; c0 < HS; c0 += kBlock)
        for (int64_t i0 = 0; i0 < kQueries; i0 += kBlock)
            for (int64_t c = c0; c < std::min(HS, c0 + kBlock); ++c)
                for (int64_t i = i0; i < i0 + kBlock; ++i)
                    to[(i0 / kHalf * HS + c) * kHalf + i % kHalf] = rows[i * row + c];
}

// A row of packed values, times one factor and then the other, rounded to T.
template <class T, class R>
inline void unpack_row(T* to, const R* from, int64_t HS, R scale, R gate = R(1)) {
#pragma omp simd
    for (int64_t c = 0; c < HS; ++c) store(to[c], from[c] * scale * gate);
}

// The biases of one head's keys, or their gradients, from row `begin` of (rows, NH) on; or none.
template <class R>
struct KeyBias {
    R* data;
    int64_t NH;
    KeyBias(Tensor t, int64_t head, int64_t begin)
        : data(t ? t.ptr<R>() + begin * t.shape[1] + head : nullptr), NH(t ? t.shape[1] : 0) {}
    R& of(int64_t row) const { return data[row * NH]; }

    // S^T (keys from `row` on, kQueries queries) gets them, in the first `keys` rows and `queries` columns.
    void add_to(R* scores, int64_t row, int64_t keys, int64_t queries) const {
        for (int64_t j = 0; data && j < keys; ++j) {
            const R b = of(row + j);
#pragma omp simd
            for (int64_t i = 0; i < queries; ++i) scores[j * kQueries + i] += b;
        }
    }
    // They get the sums of dS^T over these columns.
    void add_sums(const R* dscores, int64_t row, int64_t keys, int64_t queries) const {
        for (int64_t j = 0; data && j < keys; ++j)
            of(row + j) += lane_sum<R>(queries, [&](int64_t i) { return dscores[j * kQueries + i]; });
    }
};

// What is added to and hidden from the scores of one head.
template <class R>
struct ScoreRule {
    Mask mask;
    R slope;

    // S^T (keys from j0, kQueries queries from i0) gets ALiBi, and -infinity where masked. `count` keys.
    void apply(R* scores, int64_t i0, int64_t j0, int64_t count) const {
        if (slope != 0)
            for (int64_t j = 0; j < count; ++j) {
                R* row = scores + j * kQueries;
                const R distance = static_cast<R>(i0 - (j0 + j));
#pragma omp simd
                for (int64_t i = 0; i < kQueries; ++i) row[i] -= slope * std::abs(distance + static_cast<R>(i));
            }
        if (mask.passes(i0, i0 + kQueries, j0, j0 + count)) return;
        for (int64_t j = 0; j < count; ++j) {
            R* row = scores + j * kQueries;
            const int64_t key = j0 + j;
            const QueriesOfKey<int64_t> seen = mask.queries_of(key, Mask::kEndless);
            const int64_t first = std::clamp<int64_t>(seen.begin - i0, 0, kQueries);
            const int64_t last = std::clamp<int64_t>(seen.dense - i0, first, kQueries);
            const int64_t end = std::clamp<int64_t>(seen.end - i0, last, kQueries);
            std::fill(row, row + first, -std::numeric_limits<R>::infinity());
            // But for every step-th.
            int64_t hidden = last, seen_next = last + (mask.step - (i0 + last - key) % mask.step) % mask.step;
            for (; hidden < end; hidden = seen_next + 1, seen_next += mask.step)
                std::fill(row + hidden, row + std::min(end, seen_next), -std::numeric_limits<R>::infinity());
            std::fill(row + end, row + kQueries, -std::numeric_limits<R>::infinity());
        }
    }
};

// A tile's scores, `count` rows of S^T, times a factor.
template <class R>
inline void scale_scores(R* scores, R factor, int64_t count) {
#pragma omp simd
    for (int64_t x = 0; x < count * kQueries; ++x) scores[x] *= factor;
}

// p = weight(s) for one row of S^T, with `lse` and `bias` per query; 0 where the score is -infinity.
template <class V, class R>
inline void weigh_row(R* p, const R* s, const R* lse, const R* bias) {
#pragma omp simd
    for (int64_t i = 0; i < kQueries; ++i) {
        const R weight = V::weight(s[i], RowState<R>{.lse = lse[i], .bias = bias[i]});
        p[i] = s[i] == -std::numeric_limits<R>::infinity() ? R(0) : weight;
    }
}

}  // namespace plimsoll::cpu
