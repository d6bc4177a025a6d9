// Core attention, forward, for sm_80 and later: a block per 64 queries of a head; keys and values stream through two
// stages of shared memory. FlashAttention-2, arXiv:2307.08691, alg. 1.
#include "kernels/cuda/attention_call.cuh"
#include "kernels/cuda/attention_forward_sm90.h"
#include "kernels/cuda/attention_wide.h"

namespace plimsoll::cuda {
namespace {

template <int HS>
struct ForwardShape {
    static constexpr int kKeys = HS > 128 ? 32 : 64;
    static constexpr int kSharedBytes = Tile<HS>::bytes(kTileRows) + 4 * Tile<HS>::bytes(kKeys);
};

struct ForwardArguments : ForwardCall {
    HeadView<bf16> out;
    HeadView<const bf16> q, k, v;
    AttentionTables tables;
    DeviceKeyBias key_bias;
};

// Blocks that a multiprocessor is to have, 0: ptxas chooses. For these it aims at four, and five fit.
template <class V, int HS>
inline constexpr int kForwardBlocks = HS == 32 && V::kInfo.bias == BiasRole::kAdded ? 5 : 0;

template <class V, int HS>
__global__ void __launch_bounds__(kTileThreads, kForwardBlocks<V, HS>)
    attention_forward_kernel(const __grid_constant__ ForwardArguments a) {
    constexpr int kKeys = ForwardShape<HS>::kKeys;
    constexpr bool kExp = V::kInfo.normalization == Normalization::kExp;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    auto* memory = reinterpret_cast<bf16*>(shared);
    const Tile<HS> queries{memory};
    const auto keys = [&](int stage) { return Tile<HS>{queries.at(kTileRows + stage * kKeys, 0)}; };
    const auto values = [&](int stage) { return Tile<HS>{queries.at(kTileRows + (2 + stage) * kKeys, 0)}; };

    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp, head = blockIdx.y;
    const QueryTile& here = a.tables.query_tiles[blockIdx.x];
    const int m0 = here.row, m1 = here.end;
    const HeadView<const bf16> k = a.k.head(head / a.group, HS), v = a.v.head(head / a.group, HS);
    const float slope = a.mask.slope(head);
    const float extra = a.sink_logit ? a.sink_logit[head] : a.extra_logit;

    // This lane's two rows. A lane's sum is a part of its row's; the extra column's 1 = exp(extra - extra) is in one.
    int row[2], begin[2];
    RowState<float, DeviceMath> state[2];
    float sum[2];
    const auto end_of = [&](int n) { return a.tables.end ? a.tables.end[n < m1 ? n : m0] : here.document_end; };
    for (int r = 0; r < 2; ++r) {
        row[r] = m0 + warp_row + lane / 4 + 8 * r;
        begin[r] = here.first == here.last ? here.first : a.tables.first[row[r] < m1 ? row[r] : m0];
        state[r] = {extra, bias_of<V>(a.mask, a.score_bias, head, row[r], begin[r], end_of(row[r]))};
        sum[r] = lane % 4 == 0 && extra > kLowest ? 1.0f : 0.0f;
    }

    const int n1 = a.mask.keys_end(m0, m1, here.last, here.document_end);
    // The first tile from row n0 on with a key that is seen.
    const auto next_tile = [&](int n0) {
        n0 = here.skip_gap(n0);
        while (n0 < n1 && !a.mask.reaches(m0, m1, here.last, n0, n0 + kKeys)) n0 = here.skip_gap(n0 + kKeys);
        return n0;
    };
    const auto load = [&](int n0, int stage) {
        if (n0 < n1) {
            keys(stage).template load<kKeys>(k, here.row_of_key(n0), n1 - n0);
            values(stage).template load<kKeys>(v, here.row_of_key(n0), n1 - n0);
        }
        device::cp_async_commit();
    };
    queries.template load<kTileRows>(a.q.head(head, HS), m0, m1 - m0);
    int next = next_tile(here.first);
    load(next, 0);

    float out[HS / 8][4] = {};
    for (int stage = 0; next < n1; stage ^= 1) {
        const int n0 = next;
        next = next_tile(n0 + kKeys);
        load(next, stage ^ 1);
        device::cp_async_wait<1>();
        __syncthreads();
        float p[kKeys / 8][4] = {};
        a.key_bias.start_columns(p, here.row_of_key(n0), n1 - n0, head, lane);
        multiply_transposed<HS>(p, queries, warp_row, keys(stage), lane);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float top = state[r].lse;
            const auto score = [&](const auto& query) {
#pragma unroll
                for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
                    for (int e = 2 * r; e < 2 * r + 2; ++e) {
                        const int j = n0 + n * 8 + 2 * (lane % 4) + e % 2;
                        p[n][e] = query.sees(j) ? a.mask.score(p[n][e], query.distance(j), slope) : kLowest;
                        if constexpr (kExp) top = fmaxf(top, p[n][e]);
                    }
            };
            if (a.mask.patterned)
                score(PatternedRow{a.mask, a.mask.keys_of(row[r], begin[r], end_of(row[r])), row[r], begin[r]});
            else
                score(CausalRow{a.mask, row[r], begin[r]});
            if constexpr (kExp) {
                top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
                top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
                const float factor = state[r].lse == top ? 1.0f : DeviceMath::exp(state[r].lse - top);
                state[r].lse = top;
                sum[r] *= factor;
#pragma unroll
                for (int n = 0; n < HS / 8; ++n) out[n][2 * r] *= factor, out[n][2 * r + 1] *= factor;
            }
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    p[n][e] = p[n][e] == kLowest ? 0.0f : V::weight(p[n][e], state[r]);
                    if constexpr (kIsNormalized<V>) sum[r] += p[n][e];
                }
        }
        multiply_rounded<HS, HS>(out, p, values(stage), 0, lane);
        __syncthreads();
    }
    device::cp_async_wait<0>();

    float factor[2];
    for (int r = 0; r < 2; ++r) {
        if constexpr (kIsNormalized<V>) {
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
            if (lane % 4 == 0 && row[r] < m1)
                a.lse[static_cast<int64_t>(head) * a.N + row[r]] = kExp ? state[r].lse + logf(sum[r]) : sum[r];
        }
        factor[r] = !kExp ? weight_factor<V>(sum[r], state[r]) : sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
        if (row[r] < m1) factor[r] *= gate_of(a.gate, row[r], a.mask.NH, head);
    }
    store_rows(a.out.head(head, HS), out, m0 + warp_row, m1, 0, factor, lane);
}

void run_forward(const AttentionTensors& t, const AttentionTables& tables, const AttentionSpec& spec,
                 const Exec& exec) {
    for (const auto& [tensor, name] : {std::pair{&t.q, "q"}, {&t.k, "k"}, {&t.v, "v"}, {&t.out, "out"}})
        check_attention_layout(*tensor, name);
    const int64_t NH = t.q.shape[1], HS = t.q.shape[2];
    const ForwardArguments arguments{forward_call(t, spec),
                                     {t.out.ptr<bf16>(), t.out.row_stride},
                                     {t.q.ptr<bf16>(), t.q.row_stride},
                                     {t.k.ptr<bf16>(), t.k.row_stride},
                                     {t.v.ptr<bf16>(), t.v.row_stride},
                                     tables,
                                     make_key_bias(t.key_bias, spec, NH)};
    dispatch_attention(spec.weighting, HS, [&]<class V, int kHS>() {
        constexpr int kBytes = ForwardShape<kHS>::kSharedBytes;
        check_cuda(
            cudaFuncSetAttribute(attention_forward_kernel<V, kHS>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
            "attention_forward");
        PLIMSOLL_LAUNCH((attention_forward_kernel<V, kHS>),
                        dim3(static_cast<unsigned>(tables.query_tile_count), static_cast<unsigned>(NH)),
                        dim3(kTileThreads), kBytes, exec.cuda->stream(), arguments);
        launch_check("attention_forward");
    });
}

}  // namespace

void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec) {
    const int64_t N = t.q.shape[0];
    if (N == 0) return;
    if (is_wide(t)) return wide_attention_forward(t, cu_seqlens, spec, exec);
    int32_t* const memory = exec.cuda->workspace<int32_t>(table_words(N));
    const AttentionTables tables = make_tables(memory, cu_seqlens, N, exec);
    if (takes_sm90_forward(t, spec, exec)) return attention_forward_sm90(t, tables, spec, exec);
    run_forward(t, tables, spec, exec);
}

void attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                             const Exec& exec) {
    if (tasks.tasks.empty()) return;
    if (is_wide(t)) return wide_attention_tasks_forward(t, tasks, spec, exec);
    int32_t* const memory = exec.cuda->workspace<int32_t>(table_words(tasks));
    run_forward(t, make_tables(memory, tasks, t.q.shape[0], exec), spec, exec);
}

}  // namespace plimsoll::cuda
