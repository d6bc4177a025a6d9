// Core attention, backward, for sm_90a: dQ. Blocks that stay, each with a warpgroup that loads (TMA) and two of 64
// queries that compute (wgmma). The product that adds a tile of keys to dQ runs while those of the next tile are
// started. Keys run from the first tile to the last, so all sums run in a fixed order.
#pragma once

#include "kernels/cuda/sm90/backward_rows.cuh"
#include "kernels/cuda/sm90/query_tile.cuh"

namespace plimsoll::cuda {

// Its mask not patterned, with a scale above 0.
struct QueryGradientArguments : BackwardCall {
    device::TensorMap q, dout, dq;  // tiles of 64 queries
    device::TensorMap k, v;         // of kKeys keys
    const float* rows;              // backward_rows_kernel(), or null
    TileSchedule schedule;
    const int32_t *first, *end;  // (N): where each row's document begins and ends
};

// Its own tiles are of queries and their output gradients; keys and values pass together.
template <int HS>
using QueryGradientBlock =
    Block90<QueryGradientArguments,
            BlockBarriers<query_gradient_tile(HS).queries / kGroupRows, query_gradient_tile(HS).stages, 1>,
            query_gradient_tile(HS).tensor_bytes(HS)>;

template <class V, int HS>
struct QueryGradient90 : QueryGradientBlock<HS> {
    static constexpr QueryGradientTile kTile = query_gradient_tile(HS);
    static constexpr int kKeys = kTile.keys, kStages = kTile.stages, kGroups = kTile.queries / kGroupRows;
    static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
    static constexpr int kOwnBarrier = 1;        // a named barrier per warpgroup
    static constexpr bool kInPairs = HS <= 128;  // as in the forward
    static constexpr bool kLearnsBias = V::kInfo.bias != BiasRole::kNone;
    using Unit = ScoreUnit<V>;
    using State = RowState<float, typename Unit::Math>;
    using Queries = SwizzledTile<kGroupRows, HS>;
    using Keys = SwizzledTile<kKeys, HS>;

    using Block = QueryGradientBlock<HS>;
    using Block::a, Block::shared, Block::barriers;

    PLIMSOLL_DEVICE Queries queries(int group) const { return {shared + group * Queries::kBytes}; }
    PLIMSOLL_DEVICE Queries grads(int group) const { return {shared + (kGroups + group) * Queries::kBytes}; }
    PLIMSOLL_DEVICE Keys keys(int n) const {
        return {shared + 2 * kGroups * Queries::kBytes + n % kStages * Keys::kBytes};
    }
    PLIMSOLL_DEVICE Keys values(int n) const {
        return {shared + 2 * kGroups * Queries::kBytes + (kStages + n % kStages) * Keys::kBytes};
    }
    PLIMSOLL_DEVICE Ring<kStages>& keys_ring() const { return barriers().passing[0]; }
    PLIMSOLL_DEVICE QueriesOfBlock queries_of(const TileWork& piece) const {
        return {piece, kTile.queries, a.N, a.first};
    }

    // ---- the thread that loads
    PLIMSOLL_DEVICE void load() const {
        for (const device::TensorMap* map : {&a.q, &a.dout, &a.k, &a.v, &a.dq}) device::tma_prefetch(map);
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const QueriesOfBlock w = queries_of(piece);
            const int key_head = w.head / a.group;
            device::Mbarrier* const own = barriers().own.begin_load(item, 2 * kGroups * Queries::kBytes);
            for (int g = 0; g < kGroups; ++g) {
                device::tma_load(queries(g).data, &a.q, own, 0, w.row(g), 0, w.head);
                device::tma_load(grads(g).data, &a.dout, own, 0, w.row(g), 0, w.head);
            }
            const KeyTiles<kKeys> tiles = w.keys<kKeys>(a.mask);
            for (int n0 = tiles.begin(); n0 >= 0; n0 = tiles.after(n0), ++n) {
                device::Mbarrier* const full = keys_ring().begin_load(n, 2 * Keys::kBytes);
                device::tma_load(keys(n).data, &a.k, full, 0, n0, 0, key_head);
                device::tma_load(values(n).data, &a.v, full, 0, n0, 0, key_head);
            }
        });
    }

    // ---- the warpgroups that compute
    // This lane's two rows, and what they add to a learned bias' gradient.
    struct Rows : QueryRows {
        QueryRow of[2] = {};
        float dbias[2] = {};
    };

    PLIMSOLL_DEVICE void compute(int group) const {
        const int lane = threadIdx.x % kWarp;
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const QueriesOfBlock w = queries_of(piece);
            Rows rows = begin_rows(w, group);
            float dq[HS / 2] = {};
            barriers().own.wait(item);
            n = add_keys(w, group, n, rows, dq, lane);
            if constexpr (kLearnsBias) store_bias(w, rows, lane);
#pragma unroll
            for (int i = 0; i < HS / 2; ++i) dq[i] *= a.mask.scale;
            store_group_rows(a.dq, w.row(group), w.head, queries(group), dq, lane, kOwnBarrier + group,
                             barriers().own.empty[0]);
        });
    }

    PLIMSOLL_DEVICE Rows begin_rows(const QueriesOfBlock& w, int group) const {
        Rows rows{{.mask = a.mask,
                   .first = a.first,
                   .raw_slope = a.mask.slope(w.head) / a.mask.scale,
                   .row = w.row(group) + first_row_of_lane(),
                   .last_row = a.N - 1}};  // rows behind it are not stored
        for (int r = 0; r < 2; ++r) {
            const float* const from = a.rows + row_at(w.head, rows.row + 8 * r, a.N);
            rows.of[r] = kIsNormalized<V> || a.rows ? QueryRow{from[0], from[kRowTile], from[2 * kRowTile]}
                                                    : backward_row<V>(a, w.head, w.m0, a.first[w.m0], a.end[w.m0]);
        }
        return rows;
    }

    PLIMSOLL_DEVICE void weigh(float (&scores)[kKeys / 2], const Rows& rows) const {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const State state{rows.of[r].state, rows.of[r].state};
#pragma unroll
            for (int c = 0; c < kKeys / 8; ++c)
                Unit::template weigh<kInPairs>(scores[4 * c + 2 * r], scores[4 * c + 2 * r + 1],
                                               a.mask.scale * Unit::kUnit, state);
        }
    }
    // dp becomes ds. kWeighed: scores are weights by now, zeros where they are hidden. A weighting without
    // normalisation has a gradient of 0 where that of its weight is.
    template <bool kWeighed>
    PLIMSOLL_DEVICE void differentiate(const float (&scores)[kKeys / 2], float (&dp)[kKeys / 2], bool cut, int n0,
                                       Rows& rows, int lane) const {
        if (!kWeighed && !kIsNormalized<V> && cut) rows.hide(dp, n0, lane, 0.0f);
        const auto each = [&](auto learns) {
#pragma unroll
            for (int i = 0; i < kKeys / 2; ++i) {
                const QueryRow& of = rows.of[i / 2 % 2];
                const State state{of.state, of.state};
                const float s = kWeighed ? 0.0f : scores[i] * a.mask.scale * Unit::kUnit;
                const float f = kWeighed ? scores[i] : V::weight(s, state);
                if constexpr (kHasRowFactor<V>) dp[i] *= of.factor;
                const float ds = score_gradient<V>(s, f, dp[i], of.delta, state);
                if constexpr (learns) rows.dbias[i / 2 % 2] += bias_gradient<V>(f, dp[i], ds);
                dp[i] = ds;
            }
        };
        if constexpr (kLearnsBias)
            a.dbias ? each(std::true_type{}) : each(std::false_type{});
        else
            each(std::false_type{});
        if (!kWeighed && kIsNormalized<V> && cut) rows.hide(dp, n0, lane, 0.0f);
    }

    // All tiles of keys of one tile of queries, the n-th of this block's and those after it. Returns the next.
    PLIMSOLL_DEVICE int add_keys(const QueriesOfBlock& w, int group, int n, Rows& rows, float (&dq)[HS / 2],
                                 int lane) const {
        const KeyTiles<kKeys> tiles = w.keys<kKeys>(a.mask);
        const QueriesOfBlock::SeenByAll seen = w.seen_by_all(a.mask, group);
        float scores[kKeys / 2], dp[kKeys / 2];
        RoundedRows<kKeys> ds;
        bool adds = false;  // whether dQ is being added to
        for (int n0 = tiles.begin(); n0 >= 0; n0 = tiles.after(n0), ++n) {
            keys_ring().wait(n);
            device::wgmma_fence();
            start_transposed_product(scores, queries(group), 0, keys(n));
            start_transposed_product(dp, grads(group), 0, values(n));
            device::wgmma_wait<2>();
            device::hold_registers(dq);
            if (adds) keys_ring().release(n - 1, lane);
            adds = true;
            device::wgmma_wait<1>();
            device::hold_registers(scores);
            const bool cut = seen.cuts(n0, kKeys);
            if (a.mask.alibi) rows.bend(scores, n0, lane);
            if constexpr (Unit::kForgetsScores) {
                weigh(scores, rows);
                if (cut) rows.hide(scores, n0, lane, 0.0f);
            }
            device::wgmma_wait<0>();
            device::hold_registers(dp);
            differentiate<Unit::kForgetsScores>(scores, dp, cut, n0, rows, lane);
            ds.assign(dp);
            device::wgmma_fence();
            start_product(dq, ds, keys(n));
        }
        device::wgmma_wait<0>();
        device::hold_registers(dq);
        keys_ring().release(n - 1, lane);
        return n;
    }

    PLIMSOLL_DEVICE void store_bias(const QueriesOfBlock& w, Rows& rows, int lane) const {
        if (!a.dbias) return;
        for (int r = 0; r < 2; ++r) {
            const int row = rows.row + 8 * r;
            rows.dbias[r] += __shfl_xor_sync(kAllLanes, rows.dbias[r], 1);
            rows.dbias[r] += __shfl_xor_sync(kAllLanes, rows.dbias[r], 2);
            if (lane % 4 == 0 && row < a.N) a.dbias[static_cast<int64_t>(w.head) * a.N + row] = rows.dbias[r];
        }
    }
};

template <class V, int HS>
__global__ void __launch_bounds__(QueryGradient90<V, HS>::kThreads, 1)
    attention_dq_sm90_kernel(const __grid_constant__ QueryGradientArguments a) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using Gradient = QueryGradient90<V, HS>;
    run_warpgroups(Gradient{{a, shared}});
#endif
}

// In a file of its own, attention_dq_sm90.cu.
void launch_sm90_dq(const QueryGradientArguments& arguments, Weighting weighting, int64_t HS, const Exec& exec);

}  // namespace plimsoll::cuda
