// Core attention, backward, for sm_90a: dK and dV. Blocks that stay, each with a warpgroup that loads (TMA) and two of
// 64 keys that compute (wgmma), transposed: rows are keys, so that weights and ds are at once operands of the products
// that add to dV and dK. A block passes over the query heads of its key head and their queries, in ascending order: no
// atomics, and all sums run in a fixed order.
#pragma once

#include "kernels/cuda/sm90/backward_rows.cuh"
#include "kernels/cuda/sm90/block.cuh"

namespace plimsoll::cuda {

// Its mask not patterned, with a scale above 0.
struct KeyGradientArguments : BackwardCall {
    device::TensorMap q, dout;       // tiles of kQueries queries
    device::TensorMap k, v, dk, dv;  // of 64 keys
    const float* rows;               // backward_rows_kernel(), or null
    TileSchedule schedule;
    const int32_t *first, *end;  // (N): where each row's document begins and ends
};

// Whether the kernel always wants rows: where there are no registers for what all queries have in common.
template <class V>
constexpr bool wants_rows(int64_t HS) {
    return kIsNormalized<V> || HS > 64;
}

// Its own tiles are of keys and values; queries, their output gradients and numbers pass together.
template <int HS>
using KeyGradientBlock =
    Block90<KeyGradientArguments,
            BlockBarriers<key_gradient_tile(HS).keys / kGroupRows, key_gradient_tile(HS).stages, 1>,
            key_gradient_tile(HS).tensor_bytes(HS)>;

template <class V, int HS>
struct KeyGradient90 : KeyGradientBlock<HS> {
    static constexpr KeyGradientTile kTile = key_gradient_tile(HS);
    static constexpr int kQueries = kTile.queries, kStages = kTile.stages, kGroups = kTile.keys / kGroupRows;
    static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
    static constexpr int kOwnBarrier = 1;        // a named barrier per warpgroup
    static constexpr bool kInPairs = HS <= 128;  // as in the forward
    // Whether the products of the next tile are started while dK and dV are added to: there must be registers for both.
    static constexpr bool kOverlaps = HS <= 96;
    using Unit = ScoreUnit<V>;
    using State = RowState<float, typename Unit::Math>;
    using Queries = SwizzledTile<kQueries, HS>;
    using Keys = SwizzledTile<kGroupRows, HS>;

    using Block = KeyGradientBlock<HS>;
    using Block::a, Block::shared, Block::barriers;
    static_assert(kPaddedRows % kQueries == 0);

    // A tile of keys of one key head, and the queries that see some of them: from the first key on, before `end`.
    struct Work {
        int key_head, n0;
        int end;

        PLIMSOLL_DEVICE int row(int group) const { return n0 + group * kGroupRows; }
    };

    PLIMSOLL_DEVICE Keys keys(int group) const { return {shared + group * Keys::kBytes}; }
    PLIMSOLL_DEVICE Keys values(int group) const { return {shared + (kGroups + group) * Keys::kBytes}; }
    PLIMSOLL_DEVICE Queries queries(int n) const {
        return {shared + 2 * kGroups * Keys::kBytes + n % kStages * Queries::kBytes};
    }
    PLIMSOLL_DEVICE Queries grads(int n) const {
        return {shared + 2 * kGroups * Keys::kBytes + (kStages + n % kStages) * Queries::kBytes};
    }
    // State, delta and factor of each query of a tile.
    PLIMSOLL_DEVICE float* rows(int n) const {
        return reinterpret_cast<float*>(shared + 2 * kGroups * Keys::kBytes + 2 * kStages * Queries::kBytes) +
               n % kStages * kRowNumbers * kRowTile;
    }
    PLIMSOLL_DEVICE Ring<kStages>& queries_ring() const { return barriers().passing[0]; }
    PLIMSOLL_DEVICE bool has_rows() const { return wants_rows<V>(HS) || a.rows; }

    PLIMSOLL_DEVICE Work keys_of(const TileWork& piece) const {
        const int n0 = piece.tile * kTile.keys, behind = n0 + kTile.keys < a.N ? n0 + kTile.keys : a.N;
        const int document = a.first[behind - 1], end = a.end[behind - 1];
        // Documents that end in the tile end before its last key's window does.
        const bool windowed = a.mask.window > 0 && !(a.mask.pinned > 0 && n0 < document + a.mask.pinned);
        const int window = windowed ? behind - 1 + a.mask.window : end;
        return {piece.head, n0, window < end ? window : end};
    }

    // ---- the thread that loads
    PLIMSOLL_DEVICE void load() const {
        for (const device::TensorMap* map : {&a.q, &a.dout, &a.k, &a.v, &a.dk, &a.dv}) device::tma_prefetch(map);
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const Work w = keys_of(piece);
            device::Mbarrier* const own = barriers().own.begin_load(item, 2 * kGroups * Keys::kBytes);
            for (int g = 0; g < kGroups; ++g) {
                device::tma_load(keys(g).data, &a.k, own, 0, w.row(g), 0, w.key_head);
                device::tma_load(values(g).data, &a.v, own, 0, w.row(g), 0, w.key_head);
            }
            for (int head = w.key_head * a.group; head < (w.key_head + 1) * a.group; ++head)
                for (int m0 = w.n0; m0 < w.end; m0 += kQueries, ++n) {
                    device::Mbarrier* const full =
                        queries_ring().begin_load(n, 2 * Queries::kBytes + (has_rows() ? kTile.row_bytes() : 0));
                    device::tma_load(queries(n).data, &a.q, full, 0, m0, 0, head);
                    device::tma_load(grads(n).data, &a.dout, full, 0, m0, 0, head);
                    if (has_rows()) device::bulk_load(rows(n), a.rows + row_at(head, m0, a.N), kTile.row_bytes(), full);
                }
        });
    }

    // ---- the warpgroups that compute
    // This lane's two keys: the queries that see them are those from itself up to `until`.
    struct KeyRows {
        int key[2], until[2];
        int whole;  // queries before it, not before the warpgroup's last key, see all of the warpgroup's keys
    };

    PLIMSOLL_DEVICE KeyRows key_rows(const Work& w, int group) const {
        const auto until = [&](int key) { return a.mask.until(key, a.first[key], a.end[key]); };
        KeyRows rows;
        for (int r = 0; r < 2; ++r) {
            const int key = w.row(group) + first_row_of_lane() + 8 * r;
            rows.key[r] = key;
            rows.until[r] = key < a.N ? until(key) : key;  // keys that do not exist are not stored
        }
        const int first = w.row(group) < a.N ? w.row(group) : a.N - 1, end = a.end[first];
        rows.whole = a.mask.window > 0 && first + a.mask.window < end ? first + a.mask.window : end;
        return rows;
    }

    PLIMSOLL_DEVICE void compute(int group) const {
        const int lane = threadIdx.x % kWarp;
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const Work w = keys_of(piece);
            const KeyRows keys_of_lane = key_rows(w, group);
            float dk[HS / 2] = {}, dv[HS / 2] = {};
            barriers().own.wait(item);
            for (int head = w.key_head * a.group; head < (w.key_head + 1) * a.group; ++head)
                n = add_queries(w, group, head, n, keys_of_lane, dk, dv, lane);
#pragma unroll
            for (int i = 0; i < HS / 2; ++i) dk[i] *= a.mask.scale;
            write_group_rows(kOwnBarrier + group, [&](int row0) {
                write_rows(keys(group), row0, dk, lane);
                write_rows(values(group), row0, dv, lane);
            });
            if (stores_for_group()) {
                device::tma_store(&a.dk, keys(group).data, 0, w.row(group), 0, w.key_head);
                device::tma_store(&a.dv, values(group).data, 0, w.row(group), 0, w.key_head);
                device::bulk_commit();
                device::bulk_wait_read<0>();
                device::mbarrier_arrive(&barriers().own.empty[0]);
            }
        });
    }

    // What is known of the two queries of columns 8 c + 2 t and + 1: from shared memory, or alike for all.
    template <bool kRows>
    PLIMSOLL_DEVICE QueryRow column(int n, int c, int e, const QueryRow& same, int lane) const {
        if constexpr (!kRows) return same;
        const float* const from = rows(n) + 8 * c + 2 * (lane % 4) + e;
        return {from[0], from[kRowTile], kHasRowFactor<V> ? from[2 * kRowTile] : 1.0f};
    }

    // ALiBi: less the slope times the distance from key to query.
    PLIMSOLL_DEVICE void bend(float (&raw)[kQueries / 2], const KeyRows& of, int m0, float raw_slope, int lane) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const float nearest = -raw_slope * static_cast<float>(m0 + 2 * (lane % 4) - of.key[r]);
#pragma unroll
            for (int c = 0; c < kQueries / 8; ++c)
#pragma unroll
                for (int e = 0; e < 2; ++e)
                    raw[4 * c + 2 * r + e] += nearest - raw_slope * static_cast<float>(8 * c + e);
        }
    }
    // Zeros where a query does not see a key.
    PLIMSOLL_DEVICE void hide(float (&values)[kQueries / 2], const KeyRows& of, int m0, int lane) const {
        const int origin = m0 + 2 * (lane % 4);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const int begin = of.key[r] - origin, end = of.until[r] - origin;
#pragma unroll
            for (int c = 0; c < kQueries / 8; ++c)
#pragma unroll
                for (int e = 0; e < 2; ++e) {
                    float& value = values[4 * c + 2 * r + e];
                    value = 8 * c + e >= begin && 8 * c + e < end ? value : 0.0f;
                }
        }
    }

    // Scores become weights, and p is them times the factor of their queries.
    template <bool kRows>
    PLIMSOLL_DEVICE void weigh(float (&scores)[kQueries / 2], int n, const QueryRow& same, int lane) const {
#pragma unroll
        for (int c = 0; c < kQueries / 8; ++c)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float state = column<kRows>(n, c, e, same, lane).state;
                Unit::template weigh<kInPairs>(scores[4 * c + e], scores[4 * c + 2 + e], a.mask.scale * Unit::kUnit,
                                               State{state, state});
            }
    }
    // dp becomes ds, and scores the weights of dV. kWeighed: they are weights by now.
    template <bool kWeighed, bool kRows>
    PLIMSOLL_DEVICE void differentiate(float (&scores)[kQueries / 2], float (&dp)[kQueries / 2], int n,
                                       const QueryRow& same, int lane) const {
#pragma unroll
        for (int c = 0; c < kQueries / 8; ++c)
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const QueryRow of = column<kRows>(n, c, e, same, lane);
                const State state{of.state, of.state};
#pragma unroll
                for (int i = 4 * c + e; i < 4 * c + 4; i += 2) {
                    const float s = kWeighed ? 0.0f : scores[i] * a.mask.scale * Unit::kUnit;
                    const float f = kWeighed ? scores[i] : V::weight(s, state);
                    if constexpr (kHasRowFactor<V>) dp[i] *= of.factor;
                    dp[i] = score_gradient<V>(s, f, dp[i], of.delta, state);
                    scores[i] = kHasRowFactor<V> ? f * of.factor : f;
                }
            }
    }

    // All tiles of queries of one head, the n-th of this block's and those after it. Returns the next.
    PLIMSOLL_DEVICE int add_queries(const Work& w, int group, int head, int n, const KeyRows& of, float (&dk)[HS / 2],
                                    float (&dv)[HS / 2], int lane) const {
        if constexpr (!wants_rows<V>(HS)) {
            if (!a.rows)
                return add_queries<false>(w, group, head, n, of,
                                          backward_row<V>(a, head, w.n0, a.first[w.n0], a.end[w.n0]), dk, dv, lane);
        }
        return add_queries<true>(w, group, head, n, of, {}, dk, dv, lane);
    }
    template <bool kRows>
    PLIMSOLL_DEVICE int add_queries(const Work& w, int group, int head, int n, const KeyRows& of, const QueryRow& same,
                                    float (&dk)[HS / 2], float (&dv)[HS / 2], int lane) const {
        const float raw_slope = a.mask.slope(head) / a.mask.scale;
        float scores[kQueries / 2], dp[kQueries / 2];
        RoundedRows<kQueries> p, ds;
        int added = -1;  // the load that is being added to dK and dV
        const auto finish = [&](auto groups_behind) {
            device::wgmma_wait<groups_behind>();
            device::hold_registers(dv);
            device::hold_registers(dk);
            if (added >= 0) queries_ring().release(added, lane);
            added = -1;
        };
        for (int m0 = w.n0; m0 < w.end; m0 += kQueries, ++n) {
            queries_ring().wait(n);
            if (m0 + kQueries <= w.row(group)) {  // no query of the tile sees a key of this warpgroup
                queries_ring().release(n, lane);
                continue;
            }
            device::wgmma_fence();
            start_transposed_product(scores, keys(group), 0, queries(n));
            start_transposed_product(dp, values(group), 0, grads(n));
            if constexpr (kOverlaps) finish(std::integral_constant<int, 2>{});
            device::wgmma_wait<1>();
            device::hold_registers(scores);
            const bool cut = m0 < w.row(group) + kGroupRows - 1 || m0 + kQueries > of.whole;
            if (a.mask.alibi) bend(scores, of, m0, raw_slope, lane);
            if constexpr (Unit::kForgetsScores) {
                weigh<kRows>(scores, n, same, lane);
                if (cut) hide(scores, of, m0, lane);
            }
            device::wgmma_wait<0>();
            device::hold_registers(dp);
            differentiate<Unit::kForgetsScores, kRows>(scores, dp, n, same, lane);
            if (!Unit::kForgetsScores && cut) hide(scores, of, m0, lane), hide(dp, of, m0, lane);
            p.assign(scores);
            ds.assign(dp);
            __syncwarp();  // other lanes have read their rows: the stage may be given back
            device::wgmma_fence();
            start_product(dv, p, grads(n));
            start_product(dk, ds, queries(n));
            added = n;
            if constexpr (!kOverlaps) finish(std::integral_constant<int, 0>{});
        }
        if constexpr (kOverlaps) finish(std::integral_constant<int, 0>{});
        return n;
    }
};

template <class V, int HS>
__global__ void __launch_bounds__(KeyGradient90<V, HS>::kThreads, 1)
    attention_dkv_sm90_kernel(const __grid_constant__ KeyGradientArguments a) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using Gradient = KeyGradient90<V, HS>;
    run_warpgroups(Gradient{{a, shared}});
#endif
}

// In a file of its own, attention_dkv_sm90.cu.
void launch_sm90_dkv(const KeyGradientArguments& arguments, Weighting weighting, int64_t HS, cudaStream_t stream,
                     const Exec& exec);

}  // namespace plimsoll::cuda
