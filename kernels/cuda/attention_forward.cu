// Core attention, forward, for sm_80 and later: a block per 64 queries of a head; keys and values stream through two
// stages of shared memory. FlashAttention-2, arXiv:2307.08691, alg. 1.
#include <algorithm>

#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

template <int HS>
struct ForwardShape {
    static constexpr int kKeys = HS > 128 ? 32 : 64;
    static constexpr int kSharedBytes = Tile<HS>::bytes(kTileRows) + 4 * Tile<HS>::bytes(kKeys);
};

struct ForwardArguments {
    HeadView<bf16> out;
    float* lse;  // (NH, N), null for weightings without
    HeadView<const bf16> q, k, v;
    const float* sink_logit;  // (NH) or null
    float extra_logit;        // of a constant extra column, -inf without one
    const bf16* gate;         // (N, NH) before the sigmoid, or null
    int group;                // query heads of a key head
    DeviceMask mask;
};

template <class V, int HS>
__global__ void __launch_bounds__(kTileThreads) attention_forward_kernel(const __grid_constant__ ForwardArguments a) {
    constexpr int kKeys = ForwardShape<HS>::kKeys;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    auto* memory = reinterpret_cast<bf16*>(shared);
    const Tile<HS> queries{memory};
    const auto keys = [&](int stage) { return Tile<HS>{queries.at(kTileRows + stage * kKeys, 0)}; };
    const auto values = [&](int stage) { return Tile<HS>{queries.at(kTileRows + (2 + stage) * kKeys, 0)}; };

    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp, head = blockIdx.y;
    const int N = a.mask.N, m0 = static_cast<int>(blockIdx.x) * kTileRows;
    const int m1 = m0 + kTileRows < N ? m0 + kTileRows : N;
    const HeadView<const bf16> k = a.k.head(head / a.group, HS), v = a.v.head(head / a.group, HS);
    const float slope = a.mask.slope(head);
    const float extra = a.sink_logit ? a.sink_logit[head] : a.extra_logit;

    // This lane's two rows. A lane's sum is a part of its row's; the extra column's 1 = exp(extra - extra) is in one.
    int row[2], begin[2];
    RowState<float, DeviceMath> state[2];
    float sum[2];
    for (int r = 0; r < 2; ++r) {
        row[r] = m0 + warp_row + lane / 4 + 8 * r;
        begin[r] = row[r] < N ? a.mask.first[row[r]] : N;  // rows past the end see nothing
        state[r] = {extra, V::kInfo.normalized || row[r] >= N ? 0.0f : a.mask.bias(row[r])};
        sum[r] = lane % 4 == 0 && extra > kLowest ? 1.0f : 0.0f;
    }

    const auto next_tile = [&](int tile) {
        while (tile * kKeys < m1 && !a.mask.meets(m0, m1, tile * kKeys, tile * kKeys + kKeys)) ++tile;
        return tile;
    };
    const auto load = [&](int tile, int stage) {
        if (tile * kKeys < m1) {
            keys(stage).template load<kKeys>(k, tile * kKeys, N);
            values(stage).template load<kKeys>(v, tile * kKeys, N);
        }
        device::cp_async_commit();
    };
    queries.template load<kTileRows>(a.q.head(head, HS), m0, N);
    int tile = next_tile(a.mask.first[m0] / kKeys);
    load(tile, 0);

    float out[HS / 8][4] = {};
    for (int stage = 0; tile * kKeys < m1; stage ^= 1) {
        const int n0 = tile * kKeys;
        tile = next_tile(tile + 1);
        load(tile, stage ^ 1);
        device::cp_async_wait<1>();
        __syncthreads();
        float p[kKeys / 8][4] = {};
        multiply_transposed<HS>(p, queries, warp_row, keys(stage), lane);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float top = state[r].lse;
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
                for (int e = 2 * r; e < 2 * r + 2; ++e) {
                    const int j = n0 + n * 8 + 2 * (lane % 4) + e % 2;
                    p[n][e] = a.mask.visible(row[r], j, begin[r]) ? a.mask.score(p[n][e], row[r], j, slope) : kLowest;
                    if constexpr (V::kInfo.normalized) top = fmaxf(top, p[n][e]);
                }
            if constexpr (V::kInfo.normalized) {
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
                    if constexpr (V::kInfo.normalized) sum[r] += p[n][e];
                }
        }
        multiply_rounded<HS, HS>(out, p, values(stage), 0, lane);
        __syncthreads();
    }
    device::cp_async_wait<0>();

    float factor[2] = {1.0f, 1.0f};
    if constexpr (V::kInfo.normalized) {
        for (int r = 0; r < 2; ++r) {
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
            sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
            factor[r] = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
            if (lane % 4 == 0 && row[r] < N)
                a.lse[static_cast<int64_t>(head) * N + row[r]] = state[r].lse + logf(sum[r]);
        }
    }
    for (int r = 0; r < 2; ++r)
        if (row[r] < N) factor[r] *= gate_of(a.gate, row[r], a.mask.NH, head);
    store_rows(a.out.head(head, HS), out, m0 + warp_row, N, 0, factor, lane);
}

__global__ void document_bounds_kernel(int32_t* first, int32_t* end, const int32_t* cu_seqlens, int documents,
                                       int32_t N) {
    const int32_t n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;
    int low = 0, high = documents;  // cu_seqlens[low] <= n < cu_seqlens[high]
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (cu_seqlens[middle] <= n ? low : high) = middle;
    }
    first[n] = cu_seqlens[low], end[n] = cu_seqlens[low + 1];
}

}  // namespace

DeviceMask make_mask(const AttentionSpec& spec, std::span<const int32_t> cu_seqlens, int64_t N, int64_t NH,
                     int32_t* bounds, const Exec& exec) {
    PLIMSOLL_LAUNCH(document_bounds_kernel, dim3(blocks_for(N, 256)), dim3(256), 0, exec.cuda->stream(), bounds,
                    bounds + N, cu_seqlens.data(), static_cast<int>(cu_seqlens.size()) - 1, static_cast<int32_t>(N));
    launch_check("document_bounds");
    return {.first = bounds,
            .end = bounds + N,
            .window = static_cast<int>(std::min(spec.window, N + 1)),
            .pinned = static_cast<int>(std::min(spec.pinned, N)),
            .scale = static_cast<float>(spec.scale),
            .score_bias = static_cast<float>(spec.score_bias),
            .bias_per_row = spec.bias_kind == ScoreBias::kPerRow,
            .alibi = spec.alibi,
            .N = static_cast<int32_t>(N),
            .NH = static_cast<int32_t>(NH)};
}

void check_attention_layout(const Tensor& t, const char* name) {
    if (t.dtype != DType::kBF16)
        fail_input("attention on CUDA computes in bf16, {} is {}; set run.precision = \"bf16\"", name,
                   name_of(t.dtype));
    check(reinterpret_cast<uintptr_t>(t.data) % 16 == 0 && t.row_stride % 8 == 0,
          "attention on CUDA: {} must be 16-byte aligned with a row stride that is a multiple of 8, got {}", name,
          t.row_stride);
}

void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec) {
    const auto& [out, lse, q, k, v, sink_logit, gate] = t;
    const int64_t N = q.shape[0], NH = q.shape[1], HS = q.shape[2];
    if (N == 0) return;
    check(N < INT32_MAX - kTileRows, "attention on CUDA: {} tokens at once", N);
    for (const auto& [tensor, name] : {std::pair{&q, "q"}, {&k, "k"}, {&v, "v"}, {&out, "out"}})
        check_attention_layout(*tensor, name);
    const ForwardArguments arguments{
        .out = {out.ptr<bf16>(), out.row_stride},
        .lse = optional<float>(lse),
        .q = {q.ptr<bf16>(), q.row_stride},
        .k = {k.ptr<bf16>(), k.row_stride},
        .v = {v.ptr<bf16>(), v.row_stride},
        .sink_logit = spec.extra_column == ExtraColumn::kLearnedLogit ? sink_logit.ptr<float>() : nullptr,
        .extra_logit = spec.extra_column == ExtraColumn::kConstant ? static_cast<float>(spec.extra_logit) : kLowest,
        .gate = optional<bf16>(gate),
        .group = static_cast<int>(NH / k.shape[1]),
        .mask = make_mask(spec, cu_seqlens, N, NH, exec.cuda->workspace<int32_t>(2 * N), exec)};
    dispatch_attention(spec.weighting, HS, [&]<class V, int kHS>() {
        constexpr int kBytes = ForwardShape<kHS>::kSharedBytes;
        check_cuda(
            cudaFuncSetAttribute(attention_forward_kernel<V, kHS>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
            "attention_forward");
        PLIMSOLL_LAUNCH((attention_forward_kernel<V, kHS>), dim3(blocks_for(N, kTileRows), static_cast<unsigned>(NH)),
                        dim3(kTileThreads), kBytes, exec.cuda->stream(), arguments);
        launch_check("attention_forward");
    });
}

}  // namespace plimsoll::cuda
