// Core attention, forward, for sm_90a: blocks that stay, each with a warpgroup that loads (TMA) and two that compute
// (wgmma). FlashAttention-3, arXiv:2407.08608: within a warpgroup the weights of one tile of keys are made while the
// product with the values of the tile before runs; between the two, one multiplies while the other weighs.
//
// Keys run from the last tile to the first, so that those cut by the diagonal come first. All sums run in a fixed
// order.
#pragma once

#include "kernels/cuda/attention_call.cuh"
#include "kernels/cuda/sm90/forward_tile.h"
#include "kernels/cuda/sm90/query_tile.cuh"
#include "kernels/cuda/sm90/row_weights.cuh"

namespace plimsoll::cuda {

struct ForwardArguments90 : ForwardCall {  // its mask not patterned, with a scale above 0
    device::TensorMap q, k, v, out;        // tiles of 64 queries, of kKeys keys
    TileSchedule schedule;
    const int32_t *first, *end;  // (N): where each row's document begins and ends
};

// Its own tiles are of queries; keys and values pass, each in a ring.
template <int HS>
using ForwardBlock =
    Block90<ForwardArguments90, BlockBarriers<forward_tile(HS).queries / kGroupRows, forward_tile(HS).stages, 2>,
            forward_tile(HS).tensor_bytes(HS)>;

template <class V, int HS>
struct Forward90 : ForwardBlock<HS> {
    static constexpr ForwardTile kTile = forward_tile(HS);
    static constexpr int kKeys = kTile.keys, kStages = kTile.stages, kGroups = kTile.queries / kGroupRows;
    static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
    // Named barriers: one per warpgroup for its own 128 threads, and one for its turn to multiply.
    static constexpr int kOwnBarrier = 1, kTurnBarrier = 4;
    using Rows = RowWeights<V, HS>;
    using Queries = SwizzledTile<kGroupRows, HS>;
    using Keys = SwizzledTile<kKeys, HS>;

    using Block = ForwardBlock<HS>;
    using Block::a, Block::shared, Block::barriers;
    using Passing = Ring<kStages>;

    PLIMSOLL_DEVICE Queries queries(int group) const { return {shared + group * Queries::kBytes}; }
    PLIMSOLL_DEVICE Keys keys(int n) const { return {shared + kGroups * Queries::kBytes + n % kStages * Keys::kBytes}; }
    PLIMSOLL_DEVICE Keys values(int n) const {
        return {shared + kGroups * Queries::kBytes + (kStages + n % kStages) * Keys::kBytes};
    }
    PLIMSOLL_DEVICE Passing& keys_ring() const { return barriers().passing[0]; }
    PLIMSOLL_DEVICE Passing& values_ring() const { return barriers().passing[1]; }
    PLIMSOLL_DEVICE QueriesOfBlock queries_of(const TileWork& piece) const {
        return {piece, kTile.queries, a.N, a.first};
    }

    // ---- the thread that loads
    PLIMSOLL_DEVICE void load() const {
        for (const device::TensorMap* map : {&a.q, &a.k, &a.v, &a.out}) device::tma_prefetch(map);
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const QueriesOfBlock w = queries_of(piece);
            const int key_head = w.head / a.group;
            device::Mbarrier* const full = barriers().own.begin_load(item, kGroups * Queries::kBytes);
            for (int g = 0; g < kGroups; ++g)
                device::tma_load(queries(g).data, &a.q, full, 0, w.m0 + g * kGroupRows, 0, w.head);
            const KeyTiles<kKeys> tiles = w.keys<kKeys>(a.mask);
            for (int n0 = tiles.last; n0 >= 0; n0 = tiles.before(n0), ++n) {
                device::tma_load(keys(n).data, &a.k, keys_ring().begin_load(n, Keys::kBytes), 0, n0, 0, key_head);
                device::tma_load(values(n).data, &a.v, values_ring().begin_load(n, Keys::kBytes), 0, n0, 0, key_head);
            }
        });
    }

    // ---- the warpgroups that compute
    PLIMSOLL_DEVICE void compute(int group) const {
        const int lane = threadIdx.x % kWarp;
        if (kTile.takes_turns && group == 1) device::named_barrier_arrive(kTurnBarrier, 2 * kGroupThreads);
        int n = 0;
        this->for_each_piece([&](const TileWork& piece, int item) {
            const QueriesOfBlock w = queries_of(piece);
            Rows rows = begin_rows(w, group, lane);
            float out[HS / 2] = {};
            barriers().own.wait(item);
            n = attend(w, group, n, rows, out, lane);
            finish_rows(w, rows, out, lane);
            store_group_rows(a.out, w.row(group), w.head, queries(group), out, lane, kOwnBarrier + group,
                             barriers().own.empty[0]);
        });
    }

    PLIMSOLL_DEVICE Rows begin_rows(const QueriesOfBlock& w, int group, int lane) const {
        const float extra = a.sink_logit ? a.sink_logit[w.head] : a.extra_logit;
        Rows rows{{.mask = a.mask,
                   .first = a.first,
                   .raw_slope = a.mask.slope(w.head) / a.mask.scale,
                   .row = w.row(group) + first_row_of_lane(),
                   .last_row = a.N - 1}};  // rows behind it are not stored
        for (int r = 0; r < 2; ++r) {
            const int row = rows.row + 8 * r, known = row < a.N ? row : a.N - 1;
            rows.bias[r] = bias_of<V>(a.mask, a.score_bias, w.head, known, a.first[known], a.end[known]) * Rows::kUnit;
            rows.top[r] = extra / a.mask.scale;
            // A lane's sum is a part of its row's; the extra column's 1 = exp(extra - extra) is in one.
            rows.sum[r] = lane % 4 == 0 && extra > kLowest ? 1.0f : 0.0f;
        }
        return rows;
    }

    PLIMSOLL_DEVICE void start_scores(float (&scores)[kKeys / 2], int group, int n) const {
        keys_ring().wait(n);
        device::wgmma_fence();
        start_transposed_product(scores, queries(group), 0, keys(n));
    }
    PLIMSOLL_DEVICE void start_output(float (&out)[HS / 2], const RoundedRows<kKeys>& weights, int n) const {
        values_ring().wait(n);
        device::wgmma_fence();
        start_product(out, weights, values(n));
    }

    // All tiles of keys of one tile of queries, the n-th of this block's and those after it. Returns the next.
    PLIMSOLL_DEVICE int attend(const QueriesOfBlock& w, int group, int n, Rows& rows, float (&out)[HS / 2],
                               int lane) const {
        float scores[kKeys / 2];
        RoundedRows<kKeys> weights;
        const KeyTiles<kKeys> tiles = w.keys<kKeys>(a.mask);
        int n0 = tiles.last;
        const QueriesOfBlock::SeenByAll seen = w.seen_by_all(a.mask, group);
        const auto weigh = [&] { rows.weigh(scores, n0, seen.cuts(n0, kKeys), lane); };
        start_scores(scores, group, n);
        device::wgmma_wait<0>();
        device::hold_registers(scores);
        keys_ring().release(n, lane);
        weigh();
        weights.assign(scores);
        while ((n0 = tiles.before(n0)) >= 0) {
            ++n;
            if constexpr (kTile.takes_turns) device::named_barrier_sync(kTurnBarrier + group, 2 * kGroupThreads);
            start_scores(scores, group, n);
            start_output(out, weights, n - 1);
            if constexpr (kTile.takes_turns) device::named_barrier_arrive(kTurnBarrier + 1 - group, 2 * kGroupThreads);
            device::wgmma_wait<1>();
            device::hold_registers(scores);
            keys_ring().release(n, lane);
            weigh();
            device::wgmma_wait<0>();
            device::hold_registers(out);
            values_ring().release(n - 1, lane);
            weights.assign(scores);
            if constexpr (Rows::kExp) {
#pragma unroll
                for (int i = 0; i < HS / 2; ++i) out[i] *= rows.factor[i / 2 % 2];
            }
        }
        start_output(out, weights, n);
        device::wgmma_wait<0>();
        device::hold_registers(out);
        values_ring().release(n, lane);
        return n + 1;
    }

    // The row's statistic, and its factor on the output.
    PLIMSOLL_DEVICE void finish_rows(const QueriesOfBlock& w, Rows& rows, float (&out)[HS / 2], int lane) const {
        float factor[2];
        for (int r = 0; r < 2; ++r) {
            const int row = rows.row + 8 * r;
            if constexpr (kIsNormalized<V>) {
                rows.sum[r] += __shfl_xor_sync(kAllLanes, rows.sum[r], 1);
                rows.sum[r] += __shfl_xor_sync(kAllLanes, rows.sum[r], 2);
                if (lane % 4 == 0 && row < a.N)
                    a.lse[static_cast<int64_t>(w.head) * a.N + row] =
                        Rows::kExp ? rows.top[r] * a.mask.scale + logf(rows.sum[r]) : rows.sum[r];
            }
            using State = RowState<float, typename Rows::Math>;
            if constexpr (Rows::kExp)
                factor[r] = rows.sum[r] > 0 ? 1.0f / rows.sum[r] : 0.0f;
            else
                factor[r] = weight_factor<V>(rows.sum[r], State{0.0f, rows.bias[r]});
            if (row < a.N) factor[r] *= gate_of(a.gate, row, a.mask.NH, w.head);
        }
#pragma unroll
        for (int i = 0; i < HS / 2; ++i) out[i] *= factor[i / 2 % 2];
    }
};

template <class V, int HS>
__global__ void __launch_bounds__(Forward90<V, HS>::kThreads, 1)
    attention_forward_sm90_kernel(const __grid_constant__ ForwardArguments90 a) {
#if PLIMSOLL_HAS_SM90A
    PLIMSOLL_DYNAMIC_SHARED(shared);
    using Forward = Forward90<V, HS>;
    run_warpgroups(Forward{{a, shared}});
#endif
}

}  // namespace plimsoll::cuda
