// Core attention, backward, for sm_80 and later: two kernels without atomics, so that equal inputs give equal bits. One
// makes dK and dV, a block per 64 keys of a key head; one makes dQ, a block per 64 queries of a head. Both compute the
// weights again from the saved lse.
#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {
namespace {

// The second argument of __launch_bounds__ says that two blocks per multiprocessor are enough: aiming at four, ptxas
// spilled (sigmoid, head size 32, sm_90a).
//
// A block keeps 64 rows of one side and passes over the other side in smaller tiles where sums would not fit into
// registers: a lane has HS / 2 of them (dQ), or kWidth of dK and dV, beside p and ds.
template <int HS>
struct BackwardShape {
    static constexpr int kParts = HS > 128 ? 2 : 1;  // dK and dV are made a part of their columns at a time
    static constexpr int kWidth = HS / kParts;
    static constexpr int kQueries = kWidth > 64 ? 32 : 64, kKeys = HS > 128 ? 32 : 64;
    static constexpr int kDkvBytes =
        2 * Tile<HS>::bytes(kTileRows) + 2 * Tile<HS>::bytes(kQueries) + 3 * kQueries * static_cast<int>(sizeof(float));
    static constexpr int kDqBytes = 2 * Tile<HS>::bytes(kTileRows) + 2 * Tile<HS>::bytes(kKeys);
};

struct BackwardArguments {
    HeadView<bf16> dq, dk, dv;
    HeadView<const bf16> dout, q, k, v;
    const float *lse, *delta;  // (NH, N), null for weightings without
    const bf16* gate;          // (N, NH) before the sigmoid, or null
    int group;                 // query heads of a key head
    DeviceMask mask;
};

// delta_i = sum_c dout_ic out_ic, a warp per row of a head; with a gate also its gradient, delta_i (1 - g_i).
__global__ void __launch_bounds__(kTileThreads)
    delta_kernel(float* delta, bf16* dgate, HeadView<const bf16> dout, HeadView<const bf16> out, const bf16* gate,
                 int64_t N, int NH, int HS) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / kWarp;
    if (index >= N * NH) return;
    const int64_t n = index / NH, head = index % NH;
    const bf16 *d = dout.row(n) + head * HS, *y = out.row(n) + head * HS;
    float sum = 0;
    for (int c = threadIdx.x % kWarp; c < HS; c += kWarp) sum += static_cast<float>(d[c]) * static_cast<float>(y[c]);
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp > 0) return;
    delta[head * N + n] = sum;
    if (gate)
        dgate[index] = static_cast<bf16>(sum * (1.0f - gate_of(gate, static_cast<int>(n), NH, static_cast<int>(head))));
}

// dsink_logit_h = -sum_i exp(sink_logit_h - lse_i) delta_i, a block per head.
__global__ void __launch_bounds__(kTileThreads)
    sink_gradient_kernel(float* dsink_logit, const float* sink_logit, const float* lse, const float* delta, int64_t N,
                         bool accumulate) {
    PLIMSOLL_SHARED(float, sums, [kTileWarps]);
    const int64_t head = blockIdx.x;
    float sum = 0;
    for (int64_t n = threadIdx.x; n < N; n += kTileThreads)
        sum -= DeviceMath::exp(sink_logit[head] - lse[head * N + n]) * delta[head * N + n];
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float total = accumulate ? dsink_logit[head] : 0.0f;
    for (int w = 0; w < kTileWarps; ++w) total += sums[w];
    dsink_logit[head] = total;
}

// p and ds of one score, from its dot product and dp.
template <class V>
PLIMSOLL_DEVICE void weigh(float& p, float& dp, bool visible, float score, RowState<float, DeviceMath> state,
                           float delta) {
    p = visible ? V::weight(score, state) : 0.0f;
    dp = visible ? V::dscore(p, dp, delta, state) : 0.0f;
}

// blockIdx.z is the part of the columns.
template <class V, int HS>
__global__ void __launch_bounds__(kTileThreads) dkv_kernel(const __grid_constant__ BackwardArguments a) {
    constexpr int kWidth = BackwardShape<HS>::kWidth, kQueries = BackwardShape<HS>::kQueries;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    const Tile<HS> keys{reinterpret_cast<bf16*>(shared)}, values{keys.at(kTileRows, 0)},
        queries{keys.at(2 * kTileRows, 0)}, grads{queries.at(kQueries, 0)};
    float* row_state = reinterpret_cast<float*>(grads.at(kQueries, 0));  // lse or bias of each query of the tile
    float* row_delta = row_state + kQueries;
    float* row_gate = row_delta + kQueries;

    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp;
    const int N = a.mask.N, n0 = static_cast<int>(blockIdx.x) * kTileRows;
    const int n1 = n0 + kTileRows < N ? n0 + kTileRows : N;
    const int first_column = blockIdx.z * kWidth;
    keys.template load<kTileRows>(a.k.head(blockIdx.y, HS), n0, N);
    values.template load<kTileRows>(a.v.head(blockIdx.y, HS), n0, N);

    int key[2], begin[2];
    for (int r = 0; r < 2; ++r) {
        key[r] = n0 + warp_row + lane / 4 + 8 * r;
        begin[r] = key[r] < N ? a.mask.first[key[r]] : N;
    }
    const int last_query = a.mask.end[n1 - 1];
    float dk[kWidth / 8][4] = {}, dv[kWidth / 8][4] = {};
    for (int head = blockIdx.y * a.group; head < static_cast<int>(blockIdx.y + 1) * a.group; ++head) {
        const float slope = a.mask.slope(head);
        for (int m0 = n0; m0 < last_query; m0 += kQueries) {
            const int m1 = m0 + kQueries < N ? m0 + kQueries : N;
            if (!a.mask.meets(m0, m1, n0, n1)) continue;
            __syncthreads();  // the tiles before are done with
            queries.template load<kQueries>(a.q.head(head, HS), m0, N);
            grads.template load<kQueries>(a.dout.head(head, HS), m0, N);
            device::cp_async_commit();
            for (int i = threadIdx.x; i < kQueries; i += kTileThreads) {
                const bool exists = m0 + i < N;
                row_state[i] = !exists               ? 0.0f
                               : V::kInfo.normalized ? a.lse[static_cast<int64_t>(head) * N + m0 + i]
                                                     : a.mask.bias(m0 + i);
                row_delta[i] = exists && V::kInfo.normalized ? a.delta[static_cast<int64_t>(head) * N + m0 + i] : 0.0f;
                row_gate[i] = exists ? gate_of(a.gate, m0 + i, a.mask.NH, head) : 0.0f;
            }
            device::cp_async_wait<0>();
            __syncthreads();
            // Transposed: rows are keys, columns queries.
            float p[kQueries / 8][4] = {}, ds[kQueries / 8][4] = {};
            multiply_transposed<HS>(p, keys, warp_row, queries, lane);
            multiply_transposed<HS>(ds, values, warp_row, grads, lane);
#pragma unroll
            for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int column = n * 8 + 2 * (lane % 4) + e % 2;
                    const int i = m0 + column, j = key[e / 2];
                    // The document of the key, not of the query: equal where j <= i < end of the key's document.
                    const bool visible = i < N && j < N && a.mask.visible(i, j, begin[e / 2]) && i < a.mask.end[j];
                    ds[n][e] *= row_gate[column];
                    weigh<V>(p[n][e], ds[n][e], visible, a.mask.score(p[n][e], i, j, slope),
                             {row_state[column], row_state[column]}, row_delta[column]);
                    p[n][e] *= row_gate[column];  // of the gradient that is added to dV
                }
            multiply_rounded<HS, kWidth>(dv, p, grads, first_column, lane);
            multiply_rounded<HS, kWidth>(dk, ds, queries, first_column, lane);
        }
    }
    device::cp_async_wait<0>();
    const float scale[2] = {a.mask.scale, a.mask.scale}, one[2] = {1.0f, 1.0f};
    store_rows(a.dk.head(blockIdx.y, HS), dk, n0 + warp_row, N, first_column, scale, lane);
    store_rows(a.dv.head(blockIdx.y, HS), dv, n0 + warp_row, N, first_column, one, lane);
}

template <class V, int HS>
__global__ void __launch_bounds__(kTileThreads, 2) dq_kernel(const __grid_constant__ BackwardArguments a) {
    constexpr int kKeys = BackwardShape<HS>::kKeys;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    const Tile<HS> queries{reinterpret_cast<bf16*>(shared)}, grads{queries.at(kTileRows, 0)},
        keys{queries.at(2 * kTileRows, 0)}, values{keys.at(kKeys, 0)};
    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp, head = blockIdx.y;
    const int N = a.mask.N, m0 = static_cast<int>(blockIdx.x) * kTileRows;
    const int m1 = m0 + kTileRows < N ? m0 + kTileRows : N;
    const HeadView<const bf16> k = a.k.head(head / a.group, HS), v = a.v.head(head / a.group, HS);
    const float slope = a.mask.slope(head);
    queries.template load<kTileRows>(a.q.head(head, HS), m0, N);
    grads.template load<kTileRows>(a.dout.head(head, HS), m0, N);

    int row[2], begin[2];
    float state[2], delta[2], gate[2];
    for (int r = 0; r < 2; ++r) {
        row[r] = m0 + warp_row + lane / 4 + 8 * r;
        const bool exists = row[r] < N;
        begin[r] = exists ? a.mask.first[row[r]] : N;
        state[r] = !exists               ? 0.0f
                   : V::kInfo.normalized ? a.lse[static_cast<int64_t>(head) * N + row[r]]
                                         : a.mask.bias(row[r]);
        delta[r] = exists && V::kInfo.normalized ? a.delta[static_cast<int64_t>(head) * N + row[r]] : 0.0f;
        gate[r] = exists ? gate_of(a.gate, row[r], a.mask.NH, head) : 0.0f;
    }
    float dq[HS / 8][4] = {};
    for (int n0 = a.mask.first[m0] / kKeys * kKeys; n0 < m1; n0 += kKeys) {
        if (!a.mask.meets(m0, m1, n0, n0 + kKeys)) continue;
        __syncthreads();  // the tiles before are done with
        keys.template load<kKeys>(k, n0, N);
        values.template load<kKeys>(v, n0, N);
        device::cp_async_commit();
        device::cp_async_wait<0>();
        __syncthreads();
        float p[kKeys / 8][4] = {}, ds[kKeys / 8][4] = {};
        multiply_transposed<HS>(p, queries, warp_row, keys, lane);
        multiply_transposed<HS>(ds, grads, warp_row, values, lane);
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                const int i = row[e / 2], j = n0 + n * 8 + 2 * (lane % 4) + e % 2;
                ds[n][e] *= gate[e / 2];
                weigh<V>(p[n][e], ds[n][e], a.mask.visible(i, j, begin[e / 2]), a.mask.score(p[n][e], i, j, slope),
                         {state[e / 2], state[e / 2]}, delta[e / 2]);
            }
        multiply_rounded<HS, HS>(dq, ds, keys, 0, lane);
    }
    device::cp_async_wait<0>();
    const float scale[2] = {a.mask.scale, a.mask.scale};
    store_rows(a.dq.head(head, HS), dq, m0 + warp_row, N, 0, scale, lane);
}

template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention_backward");
}

}  // namespace

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    const auto& [out, lse, q, k, v, sink_logit, gate] = t;
    const int64_t N = q.shape[0], NH = q.shape[1], NKV = k.shape[1], HS = q.shape[2];
    if (N == 0) return;
    for (const auto& [tensor, name] : {std::pair{&q, "q"},
                                       {&k, "k"},
                                       {&v, "v"},
                                       {&out, "out"},
                                       {&d.out, "dout"},
                                       {&d.q, "dq"},
                                       {&d.k, "dk"},
                                       {&d.v, "dv"}})
        check_attention_layout(*tensor, name);
    const cudaStream_t stream = exec.cuda->stream();
    int32_t* bounds = exec.cuda->workspace<int32_t>(2 * N + NH * N);
    float* delta = reinterpret_cast<float*>(bounds + 2 * N);
    const bool normalized = is_normalized(spec.weighting);
    const BackwardArguments arguments{.dq = {d.q.ptr<bf16>(), d.q.row_stride},
                                      .dk = {d.k.ptr<bf16>(), d.k.row_stride},
                                      .dv = {d.v.ptr<bf16>(), d.v.row_stride},
                                      .dout = {d.out.ptr<bf16>(), d.out.row_stride},
                                      .q = {q.ptr<bf16>(), q.row_stride},
                                      .k = {k.ptr<bf16>(), k.row_stride},
                                      .v = {v.ptr<bf16>(), v.row_stride},
                                      .lse = normalized ? lse.ptr<float>() : nullptr,
                                      .delta = normalized ? delta : nullptr,
                                      .gate = optional<bf16>(gate),
                                      .group = static_cast<int>(NH / NKV),
                                      .mask = make_mask(spec, cu_seqlens, N, NH, bounds, exec)};
    if (normalized || gate)
        PLIMSOLL_LAUNCH(delta_kernel, dim3(blocks_for(N * NH, kTileWarps)), dim3(kTileThreads), 0, stream, delta,
                        optional<bf16>(d.gate), arguments.dout, (HeadView<const bf16>{out.ptr<bf16>(), out.row_stride}),
                        arguments.gate, N, static_cast<int>(NH), static_cast<int>(HS));
    dispatch_attention(spec.weighting, HS, [&]<class V, int kHS>() {
        using Shape = BackwardShape<kHS>;
        const unsigned tiles = blocks_for(N, kTileRows);
        allow_shared(dkv_kernel<V, kHS>, Shape::kDkvBytes);
        allow_shared(dq_kernel<V, kHS>, Shape::kDqBytes);
        PLIMSOLL_LAUNCH((dkv_kernel<V, kHS>), dim3(tiles, static_cast<unsigned>(NKV), Shape::kParts),
                        dim3(kTileThreads), Shape::kDkvBytes, stream, arguments);
        PLIMSOLL_LAUNCH((dq_kernel<V, kHS>), dim3(tiles, static_cast<unsigned>(NH)), dim3(kTileThreads),
                        Shape::kDqBytes, stream, arguments);
    });
    if (spec.extra_column == ExtraColumn::kLearnedLogit)
        PLIMSOLL_LAUNCH(sink_gradient_kernel, dim3(static_cast<unsigned>(NH)), dim3(kTileThreads), 0, stream,
                        d.sink_logit.ptr<float>(), sink_logit.ptr<float>(), arguments.lse, arguments.delta, N,
                        write == Write::kAccumulate);
    launch_check("attention_backward");
}

}  // namespace plimsoll::cuda
