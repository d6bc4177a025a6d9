// What the attention kernels share: who sees whom, tiles in shared memory, fragments.
//
// Scores are made by tensor cores in tiles of 64 queries and kKeys keys; a warp owns 16 rows of a tile. In a fragment
// of mma (16 x 8 sums c[4]) lane l holds rows g = l / 4 and g + 8, columns 2 t and 2 t + 1, t = l % 4.
//
// Rows and keys: kernels count keys in rows of q, as if a query's document lay around it: the key at position j of the
// document has row i + j - (position of the query in row i). Where queries and keys are the same tokens this is just
// the key's row; for tasks, tables say where in k it lies, and a row may be negative. The tables are in the workspace.
#pragma once

#include "kernels/attention/mask.h"
#include "kernels/attention/row.h"
#include "kernels/attention/variants.h"
#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

inline constexpr int kRowsPerWarp = 16, kTileWarps = 4, kTileThreads = kTileWarps * kWarp;
inline constexpr int kTileRows = kTileWarps * kRowsPerWarp;  // 64
inline constexpr float kLowest = -INFINITY;

// A head's rows of a tensor (N, heads, HS).
template <class T>
struct HeadView {
    T* data;
    int64_t row_stride;

    PLIMSOLL_DEVICE HeadView head(int index, int HS) const { return {data + index * HS, row_stride}; }
    PLIMSOLL_DEVICE T* row(int n) const { return data + n * row_stride; }
};

// Up to kTileRows queries, and their keys. Of one task, or (where tokens simply lie one after the other) of several
// documents: then `first` and `last` differ, and the others are as if there was no gap.
struct QueryTile {
    int32_t row, end;      // of q
    int32_t first, last;   // where the documents of the first and the last query begin
    int32_t shift;         // to a key's row in k, from its row as a query
    int32_t gap_at, gap;   // rows of keys that are not there
    int32_t document_end;  // of the last query, in rows of q; of a task, where its keys end

    // A row of keys, or the one behind the gap if the gap begins there: the gap is masked, this saves the walk.
    PLIMSOLL_DEVICE int skip_gap(int n) const { return n == gap_at ? n + gap : n; }
    PLIMSOLL_DEVICE int row_of_key(int n) const { return n + shift - (n > gap_at ? gap : 0); }
};

// Up to kTileRows keys of one range, and the tasks that may see them.
struct KeyTile {
    int32_t row, end;  // of k
    int32_t position;  // of the first key
    int32_t first_task, last_task;
    int32_t range_end;  // position
    int32_t unused[2];
};

struct DeviceTask {
    int32_t row, count, position, keys;  // as in AttentionTask
    int32_t first_tile;                  // of queries
};

// Tables of a call.
struct AttentionTables {
    const QueryTile* query_tiles;
    const KeyTile* key_tiles;
    const DeviceTask* tasks;
    const int32_t *first, *end;  // (N): where each row's document begins and ends; null for tasks, which say it
    int64_t query_tile_count, key_tile_count;
};
// Of documents that lie one after the other; of tasks, whose host memory may be reused at once. Both are made in the
// order of the stream in `memory`: table_words() ints, 32-byte aligned.
int64_t table_words(int64_t N);
int64_t table_words(const AttentionTasks& tasks);
AttentionTables make_tables(int32_t* memory, std::span<const int32_t> cu_seqlens, int64_t N, const Exec& exec);
AttentionTables make_tables(int32_t* memory, const AttentionTasks& tasks, int64_t N, const Exec& exec);

// The mask and the biases of a spec. i: row of a query; j: row of a key; begin: that of its document's first key.
struct DeviceMask {
    MaskRule<int32_t> rule;
    uint64_t step_inverse;  // 2^64 / rule.step, rounded up
    bool patterned;         // rule.patterned(): then not only window and pinned count
    int window, pinned;     // window 0: all
    float scale, score_bias;
    bool bias_per_row, alibi;
    int32_t NH;

    // Without a pattern: whether a query sees a key of its document that is not behind it.
    PLIMSOLL_DEVICE bool sees(int i, int j, int begin) const {
        return window == 0 || i - j < window || j < begin + pinned;
    }
    // Without a pattern: where the queries end that see a key, in a document that ends at `end`.
    PLIMSOLL_DEVICE int until(int j, int begin, int end) const {
        return window == 0 || j < begin + pinned || end - j < window ? end : j + window;
    }
    // Keys of a query, and queries of a key, of a document in rows [begin, end).
    PLIMSOLL_DEVICE KeysOfQuery<int32_t> keys_of(int i, int begin, int end) const {
        const KeysOfQuery<int32_t> keys = rule.keys_of(i - begin, end - begin);
        return {begin + keys.pinned, begin + keys.sparse, begin + keys.dense, begin + keys.end};
    }
    PLIMSOLL_DEVICE QueriesOfKey<int32_t> queries_of(int j, int begin, int end) const {
        const QueriesOfKey<int32_t> queries = rule.queries_of(j - begin, end - begin);
        return {begin + queries.begin, begin + queries.dense, begin + queries.end};
    }
    // Whether a distance is a multiple of the step.                        Lemire, Kaser, Kurz, arXiv:1902.01961,
    // sec. 3.2
    PLIMSOLL_DEVICE bool on_step(int distance) const {
        return static_cast<uint32_t>(distance) * step_inverse < step_inverse;
    }
    PLIMSOLL_DEVICE bool sees(const QueriesOfKey<int32_t>& queries, int i, int j) const {
        if (i < queries.dense) return i >= queries.begin;
        return i < queries.end && on_step(i - j);
    }
    // Whether some query in [m0, m1), of documents that begin at `last` at the latest, sees some key in [n0, n1). May
    // be true all the same.
    PLIMSOLL_DEVICE bool reaches(int m0, int m1, int last, int n0, int n1) const {
        if (!patterned) return window == 0 || n1 > m0 - window + 1 || (pinned > 0 && n0 < last + pinned);
        if (rule.prefix > 0 && m0 < last + rule.prefix && n0 < last + rule.prefix) return true;
        if (n0 >= m1) return false;
        if (pinned > 0 && n0 < last + pinned) return true;
        const int nearest = m0 < n1 ? 0 : m0 - n1 + 1, furthest = m1 - 1 - n0;
        if (nearest < (rule.block ? rule.block : rule.near)) return true;
        const int multiple = (nearest + rule.step - 1) / rule.step * rule.step;
        return multiple <= furthest && multiple < rule.far;
    }
    // Where the keys end that queries [m0, m1) see, the last of which lies in the document [last, end).
    PLIMSOLL_DEVICE int keys_end(int m0, int m1, int last, int end) const {
        if (rule.prefix == 0 || m0 >= last + rule.prefix) return m1;
        const int prefix_end = end - last < rule.prefix ? end : last + rule.prefix;
        return m1 < prefix_end ? prefix_end : m1;
    }
    // The first query that sees the key at j, in a document from row `begin` on.
    PLIMSOLL_DEVICE int first_query(int j, int begin) const { return j - begin < rule.prefix ? begin : j; }
    // b of a query for a weighting without normalisation, of a document in rows [begin, end).
    PLIMSOLL_DEVICE float bias(int i, int begin, int end) const {
        return bias_per_row ? -logf(static_cast<float>(rule.visible_keys(i - begin, end - begin))) : score_bias;
    }
    // m_h = 2^(-8 (h + 1) / NH), 0 without ALiBi.
    PLIMSOLL_DEVICE float slope(int head) const {
        return alibi ? exp2f(-8.0f * static_cast<float>(head + 1) / static_cast<float>(NH)) : 0.0f;
    }
    // The score of a query and a key at a distance, from their dot product.
    PLIMSOLL_DEVICE float score(float dot, int distance, float slope) const {
        return dot * scale - slope * static_cast<float>(distance);
    }
};

// Which keys one query sees, and how far they are: under a window and pinned keys, and under any mask. Two types, so
// that the former costs what it did before there were others.
struct CausalRow {
    const DeviceMask& mask;
    int row, begin;
    PLIMSOLL_DEVICE bool sees(int j) const { return j <= row && j >= begin && mask.sees(row, j, begin); }
    PLIMSOLL_DEVICE int distance(int j) const { return row - j; }
};
struct PatternedRow {
    const DeviceMask& mask;
    KeysOfQuery<int32_t> keys;
    int row, begin;
    PLIMSOLL_DEVICE bool sees(int j) const {
        if (j >= keys.dense) return j < keys.end;
        return j >= begin && (j < keys.pinned || (j >= keys.sparse && mask.on_step(row - j)));
    }
    PLIMSOLL_DEVICE int distance(int j) const { return j < row ? row - j : j - row; }
};
DeviceMask make_mask(const AttentionSpec& spec, int64_t NH);

// b of a query (row_bias); learned: the heads' (NH), or null.
template <class V>
PLIMSOLL_DEVICE float bias_of(const DeviceMask& mask, const float* learned, int head, int i, int begin, int end) {
    if constexpr (V::kInfo.bias == BiasRole::kNone) return 0.0f;
    return learned ? learned[head] : mask.bias(i, begin, end);
}

// The biases of keys (rows of k, NH), or null. Dot products of a tile start from them instead of from zeros, divided by
// the scale that multiplies scores later: neither masks nor loops over scores know of them. Row and head: of k, of q.
struct DeviceKeyBias {
    const float* data;
    int32_t NH;
    float inverse_scale;

    PLIMSOLL_DEVICE float of(int row, int head) const {
        return data[static_cast<int64_t>(row) * NH + head] * inverse_scale;
    }
    // p: 16 queries, 8 kColumns keys from `row` on, `count` of which there are.
    template <int kColumns>
    PLIMSOLL_DEVICE void start_columns(float (&p)[kColumns][4], int row, int count, int head, int lane) const {
        if (!data) return;
#pragma unroll
        for (int n = 0; n < kColumns; ++n)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int key = n * 8 + 2 * (lane % 4) + e;
                p[n][e] = p[n][e + 2] = key < count ? of(row + key, head) : 0.0f;
            }
    }
    // p: 16 keys from `row` on, those before `end`, and 8 kColumns queries.
    template <int kColumns>
    PLIMSOLL_DEVICE void start_rows(float (&p)[kColumns][4], int row, int end, int head, int lane) const {
        if (!data) return;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int key = row + lane / 4 + 8 * r;
            const float b = key < end ? of(key, head) : 0.0f;
#pragma unroll
            for (int n = 0; n < kColumns; ++n) p[n][2 * r] = p[n][2 * r + 1] = b;
        }
    }
};
// Throws Error for a scale that cannot be divided by.
DeviceKeyBias make_key_bias(const Tensor& key_bias, const AttentionSpec& spec, int64_t NH);

// 64 or fewer rows of a head in shared memory. Rows are 16 bytes longer than they need be: eight rows that ldmatrix
// reads at once then lie in different banks.
template <int HS>
struct Tile {
    static constexpr int kStride = HS + 8;
    static constexpr int bytes(int rows) { return rows * kStride * static_cast<int>(sizeof(bf16)); }

    bf16* data;

    PLIMSOLL_DEVICE bf16* at(int row, int column) const { return data + row * kStride + column; }

    // Starts copying kRows rows from row0 on; those from the count-th on become zeros.
    template <int kRows>
    PLIMSOLL_DEVICE void load(HeadView<const bf16> from, int row0, int count) const {
        constexpr int kChunks = HS / 8;
        for (int i = threadIdx.x; i < kRows * kChunks; i += kTileThreads) {
            const int row = i / kChunks, column = i % kChunks * 8;
            const bool valid = row < count;
            device::cp_async_16(at(row, column), from.row(row0 + (valid ? row : 0)) + column, valid);
        }
    }
    // Operand a of mma: rows row0 .. + 15, columns column .. + 15.
    PLIMSOLL_DEVICE void load_a(uint32_t (&a)[4], int row0, int column, int lane) const {
        device::ldmatrix_x4(a, at(row0 + lane % 16, column + lane / 16 * 8));
    }
    // Operand b of two mma: this tile's rows row0 .. + 15 as columns of b (b = tile^T), reduction over 16 columns.
    PLIMSOLL_DEVICE void load_b_transposed(uint32_t (&b)[4], int row0, int column, int lane) const {
        device::ldmatrix_x4(b, at(row0 + lane % 8 + lane / 16 * 8, column + lane / 8 % 2 * 8));
    }
    // Operand b of two mma: reduction over this tile's rows row0 .. + 15, its columns column .. + 15 as columns of b.
    PLIMSOLL_DEVICE void load_b(uint32_t (&b)[4], int row0, int column, int lane) const {
        device::ldmatrix_x4_trans(b, at(row0 + lane % 16, column + lane / 16 * 8));
    }
};

// sums (16, 8 kColumns) += rows row0 .. + 15 of `a` times the first 8 kColumns rows of `b`, transposed.
template <int HS, int kColumns>
PLIMSOLL_DEVICE void multiply_transposed(float (&sums)[kColumns][4], Tile<HS> a, int row0, Tile<HS> b, int lane) {
    // Unrolled whole, ptxas loads more fragments ahead than there are registers for.
#pragma unroll(HS > 64 ? 2 : 4)
    for (int k = 0; k < HS; k += 16) {
        uint32_t fragment[4];
        a.load_a(fragment, row0, k, lane);
#pragma unroll
        for (int n = 0; n < kColumns; n += 2) {
            uint32_t operand[4];
            b.load_b_transposed(operand, n * 8, k, lane);
            device::mma_m16n8k16(sums[n], fragment, operand[0], operand[1]);
            device::mma_m16n8k16(sums[n + 1], fragment, operand[2], operand[3]);
        }
    }
}

// sums (16, kWidth) += p (16, 8 kColumns), rounded to bf16, times rows 0 .. of `b`, columns first .. first + kWidth
// - 1.
template <int HS, int kWidth, int kColumns>
PLIMSOLL_DEVICE void multiply_rounded(float (&sums)[kWidth / 8][4], const float (&p)[kColumns][4], Tile<HS> b,
                                      int first, int lane) {
#pragma unroll
    for (int k = 0; k < kColumns; k += 2) {
        const uint32_t fragment[4] = {device::pack_bf16(p[k][0], p[k][1]), device::pack_bf16(p[k][2], p[k][3]),
                                      device::pack_bf16(p[k + 1][0], p[k + 1][1]),
                                      device::pack_bf16(p[k + 1][2], p[k + 1][3])};
#pragma unroll
        for (int n = 0; n < kWidth; n += 16) {
            uint32_t operand[4];
            b.load_b(operand, k * 8, first + n, lane);
            device::mma_m16n8k16(sums[n / 8], fragment, operand[0], operand[1]);
            device::mma_m16n8k16(sums[n / 8 + 1], fragment, operand[2], operand[3]);
        }
    }
}

// The gate of a row's head, 1 without one.
PLIMSOLL_DEVICE float gate_of(const bf16* gate, int row, int NH, int head) {
    return gate ? sigmoid(static_cast<float>(gate[static_cast<int64_t>(row) * NH + head])) : 1.0f;
}

PLIMSOLL_DEVICE void store_two(bf16* to, float first, float second) {
    *reinterpret_cast<uint32_t*>(to) = device::pack_bf16(first, second);
}
PLIMSOLL_DEVICE void store_two(float* to, float first, float second) {
    store<float, 2>(to, {first, second});
}

// Writes this lane's part of a warp's 16 rows, times a factor per row, for rows before `end`.
template <class T, int kCount>
PLIMSOLL_DEVICE void store_rows(HeadView<T> to, const float (&sums)[kCount][4], int row0, int end, int first,
                                const float (&factor)[2], int lane) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int row = row0 + lane / 4 + 8 * r;
        if (row >= end) continue;
        T* out = to.row(row) + first + 2 * (lane % 4);
#pragma unroll
        for (int n = 0; n < kCount; ++n)
            store_two(out + 8 * n, sums[n][2 * r] * factor[r], sums[n][2 * r + 1] * factor[r]);
    }
}

// Calls f<V, HS>() for a spec's weighting and head size. Throws for a head size there is no kernel for.
template <class F>
void dispatch_attention(Weighting weighting, int64_t HS, F&& f) {
    const auto with_variant = [&]<class V>() {
        if (HS == 32) return f.template operator()<V, 32>();
        if (HS == 64) return f.template operator()<V, 64>();
        if (HS == 96) return f.template operator()<V, 96>();
        if (HS == 128) return f.template operator()<V, 128>();
        if (HS == 256) return f.template operator()<V, 256>();
        fail_input("attention on CUDA: model.head_size {}, wanted 32, 64, 96, 128 or 256", HS);
    };
    switch (weighting) {
#define PLIMSOLL_VARIANT(Trait, header) \
    case Weighting::k##Trait:           \
        return with_variant.template operator()<Trait>();
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT
    }
    check(false, "attention on CUDA: no kernel for weighting {}", static_cast<int>(weighting));
}

// Throws unless rows of (N, H, HS) are in `dtype` and can be read 16 bytes at a time.
void check_attention_layout(const Tensor& t, const char* name, DType dtype = DType::kBF16);

}  // namespace plimsoll::cuda
