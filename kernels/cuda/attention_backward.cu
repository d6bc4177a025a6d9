// Core attention, backward, for sm_80 and later: two kernels without atomics, so that equal inputs give equal bits. One
// makes dK and dV, a block per 64 keys of a key head; one makes dQ, a block per 64 queries of a head. Both compute the
// weights again from the saved lse.
#include "kernels/cuda/attention_backward_sm90.h"
#include "kernels/cuda/attention_call.cuh"
#include "kernels/cuda/attention_wide.h"

namespace plimsoll::cuda {
namespace {

// The second argument of __launch_bounds__ says how many blocks per multiprocessor are enough: aiming at four, ptxas
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

// Gradients of keys or values, in bf16 or fp32.
struct KeyGradients {
    void* data;
    int64_t row_stride;
    bool fp32;

    template <int kCount>
    PLIMSOLL_DEVICE void store(const float (&sums)[kCount][4], int head, int HS, int row0, int end, int first,
                               float scale, int lane) const {
        const float factor[2] = {scale, scale};
        if (fp32)
            store_rows(HeadView<float>{static_cast<float*>(data), row_stride}.head(head, HS), sums, row0, end, first,
                       factor, lane);
        else
            store_rows(HeadView<bf16>{static_cast<bf16*>(data), row_stride}.head(head, HS), sums, row0, end, first,
                       factor, lane);
    }
};

// Gradients of keys' biases (rows of k, NH), or null: sums of ds over a key's queries. They stay in memory, where the
// same lane always adds to the same ones; 16 keys of a warp from `row` on, those before `end`.
struct KeyBiasGradients {
    float* data;
    int32_t NH;

    PLIMSOLL_DEVICE void clear(int row, int end, int head, int lane) const {
        for (int r = 0; data && lane % 4 == 0 && r < 2; ++r)
            if (row + lane / 4 + 8 * r < end) *at(row + lane / 4 + 8 * r, head) = 0;
    }
    template <int kColumns>
    PLIMSOLL_DEVICE void add(const float (&ds)[kColumns][4], int row, int end, int head, int lane) const {
        if (!data) return;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            float sum = 0;
#pragma unroll
            for (int n = 0; n < kColumns; ++n) sum += ds[n][2 * r] + ds[n][2 * r + 1];
            sum += __shfl_xor_sync(kAllLanes, sum, 1);
            sum += __shfl_xor_sync(kAllLanes, sum, 2);
            const int key = row + lane / 4 + 8 * r;
            if (lane % 4 == 0 && key < end) *at(key, head) += sum;
        }
    }

  private:
    PLIMSOLL_DEVICE float* at(int row, int head) const {
        return data + static_cast<int64_t>(row) * NH + head;
    }
};

struct BackwardArguments : BackwardCall {
    HeadView<bf16> dq;
    KeyGradients dk, dv;
    HeadView<const bf16> dout, q, k, v;
    AttentionTables tables;
    DeviceKeyBias key_bias;
    KeyBiasGradients dkey_bias;
};

// delta_i = sum_c dout_ic out_ic, a warp per row of a head; with a gate also its gradient, delta_i (1 - g_i), and,
// where it is wanted, dout times the gate (`gated` may be dout).
__global__ void __launch_bounds__(kTileThreads)
    delta_kernel(float* delta, bf16* dgate, HeadView<bf16> gated, HeadView<const bf16> dout, HeadView<const bf16> out,
                 const bf16* gate, int64_t N, int NH, int HS) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kTileWarps + threadIdx.x / kWarp;
    if (index >= N * NH) return;
    const int lane = threadIdx.x % kWarp;
    const int64_t n = index / NH, head = index % NH;
    const bf16 *d = dout.row(n) + head * HS, *y = out.row(n) + head * HS;
    float sum = 0;
    for (int c = lane; c < HS; c += kWarp) sum += static_cast<float>(d[c]) * static_cast<float>(y[c]);
    sum = warp_sum(sum);
    if (lane == 0) delta[head * N + n] = sum;
    if (!gate) return;
    const float open = gate_of(gate, static_cast<int>(n), NH, static_cast<int>(head));
    if (lane == 0) dgate[index] = static_cast<bf16>(sum * (1.0f - open));
    if (!gated.data) return;
    bf16* to = gated.row(n) + head * HS;
    for (int c = lane; c < HS; c += kWarp) to[c] = static_cast<bf16>(static_cast<float>(d[c]) * open);
}

// `to` becomes, or is added, the sum of what the block's threads have. sums: kTileWarps floats that they share.
PLIMSOLL_DEVICE void store_block_sum(float* to, float sum, float* sums, bool accumulate) {
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    float total = accumulate ? *to : 0.0f;
    for (int w = 0; w < kTileWarps; ++w) total += sums[w];
    *to = total;
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
    store_block_sum(dsink_logit + head, sum, sums, accumulate);
}

// dscore_bias_h = sum_i rows_hi, a block per head.
__global__ void __launch_bounds__(kTileThreads)
    score_bias_kernel(float* dscore_bias, const float* rows, int64_t N, bool accumulate) {
    PLIMSOLL_SHARED(float, sums, [kTileWarps]);
    const int64_t head = blockIdx.x;
    float sum = 0;
    for (int64_t n = threadIdx.x; n < N; n += kTileThreads) sum += rows[head * N + n];
    store_block_sum(dscore_bias + head, sum, sums, accumulate);
}

// f and ds of one score, from its dot product and dp, in their places. Returns its part of the bias' gradient.
template <class V>
PLIMSOLL_DEVICE float weigh(float& f, float& dp, bool visible, float score, RowState<float, DeviceMath> state,
                            float delta) {
    f = visible ? V::weight(score, state) : 0.0f;
    const float ds = visible ? score_gradient<V>(score, f, dp, delta, state) : 0.0f;
    const float dbias = visible ? bias_gradient<V>(f, dp, ds) : 0.0f;
    dp = ds;
    return dbias;
}

// Blocks of dkv_kernel that a multiprocessor is to have, 0: ptxas chooses. For these it aims at three, and spills.
template <class V, int HS, bool kBiased>
inline constexpr int kDkvBlocks = (V::kInfo.normalization == Normalization::kSum
                                       ? HS <= 64
                                       : !kIsNormalized<V> && (V::kInfo.bias == BiasRole::kNone || kBiased) && HS == 32)
                                      ? 2
                                      : 0;

// blockIdx.z is the part of the columns. Patterned masks have kernels of their own here: in one with both, the others
// had up to 72 registers more (softmax, head size 64, sm_90a), and a block less per multiprocessor. Biases of keys have
// kernels of their own for the same reason, patterned ones, which compute with any mask.
template <class V, int HS, bool kPatterned, bool kBiased>
__global__ void __launch_bounds__(kTileThreads, kDkvBlocks<V, HS, kBiased>)
    dkv_kernel(const __grid_constant__ BackwardArguments a) {
    constexpr int kWidth = BackwardShape<HS>::kWidth, kQueries = BackwardShape<HS>::kQueries;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    const Tile<HS> keys{reinterpret_cast<bf16*>(shared)}, values{keys.at(kTileRows, 0)},
        queries{keys.at(2 * kTileRows, 0)}, grads{queries.at(kQueries, 0)};
    float* row_state = reinterpret_cast<float*>(grads.at(kQueries, 0));  // QueryRow of each query of the tile
    float* row_delta = row_state + kQueries;
    float* row_factor = row_delta + kQueries;

    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp;
    const KeyTile here = a.tables.key_tiles[blockIdx.x];
    const int first_column = blockIdx.z * kWidth;
    keys.template load<kTileRows>(a.k.head(blockIdx.y, HS), here.row, here.end - here.row);
    values.template load<kTileRows>(a.v.head(blockIdx.y, HS), here.row, here.end - here.row);
    device::cp_async_commit();  // also where no query follows
    // Of the parts of the columns, which make the same scores, the first has the gradients of the keys' biases.
    const KeyBiasGradients dkey_bias{blockIdx.z == 0 ? a.dkey_bias.data : nullptr, a.dkey_bias.NH};
    if constexpr (kBiased)
        for (int head = blockIdx.y * a.group; head < static_cast<int>(blockIdx.y + 1) * a.group; ++head)
            dkey_bias.clear(here.row + warp_row, here.end, head, lane);

    float dk[kWidth / 8][4] = {}, dv[kWidth / 8][4] = {};
    for (int t = here.first_task; t < here.last_task; ++t) {
        const DeviceTask& task = a.tables.tasks[t];
        const int start = task.row - task.position;
        const auto begin_of = [&](int i) { return a.tables.first ? a.tables.first[i] : start; };
        const auto end_of = [&](int i) { return a.tables.end ? a.tables.end[i] : start + here.range_end; };
        // The keys in rows of q, and for each the queries that see it, without a pattern: from its own up to `until`.
        const int n0 = start + here.position, n1 = n0 + here.end - here.row;
        const int first_query = kPatterned ? a.mask.first_query(n0, begin_of(n0)) : n0;
        const int last_query = a.tables.end ? a.tables.end[n1 - 1] : task.row + task.count;
        int key[2], until[2];
        for (int r = 0; r < 2; ++r) {
            key[r] = n0 + warp_row + lane / 4 + 8 * r;
            const bool exists = key[r] < n1;
            until[r] = exists ? a.mask.until(key[r], begin_of(key[r]), a.tables.end ? a.tables.end[key[r]] : last_query)
                              : key[r];
        }
        for (int head = blockIdx.y * a.group; head < static_cast<int>(blockIdx.y + 1) * a.group; ++head) {
            const float slope = a.mask.slope(head);
            for (int m0 = first_query > task.row ? first_query : task.row; m0 < last_query; m0 += kQueries) {
                const int count = last_query - m0 < kQueries ? last_query - m0 : kQueries;
                if ((kPatterned || a.mask.window) &&
                    !a.mask.reaches(m0, m0 + count, begin_of(m0 + count - 1), n0, n0 + kTileRows))
                    continue;
                __syncthreads();  // the tiles before are done with
                queries.template load<kQueries>(a.q.head(head, HS), m0, count);
                grads.template load<kQueries>(a.dout.head(head, HS), m0, count);
                device::cp_async_commit();
                for (int i = threadIdx.x; i < kQueries; i += kTileThreads) {
                    const QueryRow row =
                        i < count ? query_row<V>(a, head, m0 + i, begin_of(m0 + i), end_of(m0 + i)) : QueryRow{};
                    row_state[i] = row.state, row_delta[i] = row.delta, row_factor[i] = row.factor;
                }
                device::cp_async_wait<0>();
                __syncthreads();
                // Transposed: rows are keys, columns queries.
                float p[kQueries / 8][4] = {}, ds[kQueries / 8][4] = {};
                if constexpr (kBiased) a.key_bias.start_rows(p, here.row + warp_row, here.end, head, lane);
                multiply_transposed<HS>(p, keys, warp_row, queries, lane);
                multiply_transposed<HS>(ds, values, warp_row, grads, lane);
                QueriesOfKey<int32_t> seers[2] = {};  // none of a key that does not exist
                if constexpr (kPatterned)
                    for (int r = 0; r < 2; ++r)
                        if (key[r] < n1) seers[r] = a.mask.queries_of(key[r], begin_of(key[r]), end_of(key[r]));
#pragma unroll
                for (int n = 0; n < kQueries / 8; ++n)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int column = n * 8 + 2 * (lane % 4) + e % 2, i = m0 + column;
                        const int j = key[e / 2];
                        const bool visible = kPatterned ? a.mask.sees(seers[e / 2], i, j) : j <= i && i < until[e / 2];
                        const int distance = kPatterned && i < j ? j - i : i - j;
                        ds[n][e] *= row_factor[column];
                        weigh<V>(p[n][e], ds[n][e], visible, a.mask.score(p[n][e], distance, slope),
                                 {row_state[column], row_state[column]}, row_delta[column]);
                        p[n][e] *= row_factor[column];  // of the gradient that is added to dV
                    }
                multiply_rounded<HS, kWidth>(dv, p, grads, first_column, lane);
                if constexpr (kBiased) dkey_bias.add(ds, here.row + warp_row, here.end, head, lane);
                multiply_rounded<HS, kWidth>(dk, ds, queries, first_column, lane);
            }
        }
    }
    device::cp_async_wait<0>();
    a.dk.store(dk, blockIdx.y, HS, here.row + warp_row, here.end, first_column, a.mask.scale, lane);
    a.dv.store(dv, blockIdx.y, HS, here.row + warp_row, here.end, first_column, 1.0f, lane);
}

template <class V, int HS>
__global__ void __launch_bounds__(kTileThreads, HS == 32 ? 3 : 2)
    dq_kernel(const __grid_constant__ BackwardArguments a) {
    constexpr int kKeys = BackwardShape<HS>::kKeys;
    PLIMSOLL_DYNAMIC_SHARED(shared);
    const Tile<HS> queries{reinterpret_cast<bf16*>(shared)}, grads{queries.at(kTileRows, 0)},
        keys{queries.at(2 * kTileRows, 0)}, values{keys.at(kKeys, 0)};
    const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * kRowsPerWarp, head = blockIdx.y;
    const QueryTile& here = a.tables.query_tiles[blockIdx.x];
    const int m0 = here.row, m1 = here.end;
    const HeadView<const bf16> k = a.k.head(head / a.group, HS), v = a.v.head(head / a.group, HS);
    const float slope = a.mask.slope(head);
    queries.template load<kTileRows>(a.q.head(head, HS), m0, m1 - m0);
    grads.template load<kTileRows>(a.dout.head(head, HS), m0, m1 - m0);

    int row[2], begin[2];
    QueryRow query[2];
    float dbias[2] = {};
    const auto end_of = [&](int n) { return a.tables.end ? a.tables.end[n < m1 ? n : m0] : here.document_end; };
    for (int r = 0; r < 2; ++r) {
        row[r] = m0 + warp_row + lane / 4 + 8 * r;
        const bool exists = row[r] < m1;
        begin[r] = here.first == here.last ? here.first : a.tables.first[exists ? row[r] : m0];
        query[r] = exists ? query_row<V>(a, head, row[r], begin[r], end_of(row[r])) : QueryRow{};
    }
    float dq[HS / 8][4] = {};
    const int n1 = a.mask.keys_end(m0, m1, here.last, here.document_end);
    for (int n0 = here.skip_gap(here.first); n0 < n1; n0 = here.skip_gap(n0 + kKeys)) {
        if (!a.mask.reaches(m0, m1, here.last, n0, n0 + kKeys)) continue;
        __syncthreads();  // the tiles before are done with
        keys.template load<kKeys>(k, here.row_of_key(n0), n1 - n0);
        values.template load<kKeys>(v, here.row_of_key(n0), n1 - n0);
        device::cp_async_commit();
        device::cp_async_wait<0>();
        __syncthreads();
        float p[kKeys / 8][4] = {}, ds[kKeys / 8][4] = {};
        a.key_bias.start_columns(p, here.row_of_key(n0), n1 - n0, head, lane);
        multiply_transposed<HS>(p, queries, warp_row, keys, lane);
        multiply_transposed<HS>(ds, grads, warp_row, values, lane);
        const auto weigh_tile = [&](auto first, auto second) {
#pragma unroll
            for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int j = n0 + n * 8 + 2 * (lane % 4) + e % 2;
                    const bool visible = e < 2 ? first.sees(j) : second.sees(j);
                    const int distance = e < 2 ? first.distance(j) : second.distance(j);
                    const QueryRow& of = query[e / 2];
                    ds[n][e] *= of.factor;
                    const float part = weigh<V>(p[n][e], ds[n][e], visible, a.mask.score(p[n][e], distance, slope),
                                                {of.state, of.state}, of.delta);
                    if constexpr (V::kInfo.bias != BiasRole::kNone) dbias[e / 2] += part;
                }
        };
        const auto patterned = [&](int r) {
            return PatternedRow{a.mask, a.mask.keys_of(row[r], begin[r], end_of(row[r])), row[r], begin[r]};
        };
        if (a.mask.patterned)
            weigh_tile(patterned(0), patterned(1));
        else
            weigh_tile(CausalRow{a.mask, row[0], begin[0]}, CausalRow{a.mask, row[1], begin[1]});
        multiply_rounded<HS, HS>(dq, ds, keys, 0, lane);
    }
    device::cp_async_wait<0>();
    if constexpr (V::kInfo.bias != BiasRole::kNone) {
        for (int r = 0; a.dbias && r < 2; ++r) {
            dbias[r] += __shfl_xor_sync(kAllLanes, dbias[r], 1);
            dbias[r] += __shfl_xor_sync(kAllLanes, dbias[r], 2);
            if (lane % 4 == 0 && row[r] < m1) a.dbias[static_cast<int64_t>(head) * a.N + row[r]] = dbias[r];
        }
    }
    const float scale[2] = {a.mask.scale, a.mask.scale};
    store_rows(a.dq.head(head, HS), dq, m0 + warp_row, m1, 0, scale, lane);
}

template <class Kernel>
void allow_shared(Kernel* kernel, int bytes) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "attention_backward");
}

KeyGradients key_gradients(const Tensor& t, const char* name) {
    check_attention_layout(t, name, t.dtype == DType::kF32 ? DType::kF32 : DType::kBF16);
    return {t.data, t.row_stride, t.dtype == DType::kF32};
}

HeadView<const bf16> rows_of(const Tensor& t, const char* name) {
    check_attention_layout(t, name);
    return {t.ptr<bf16>(), t.row_stride};
}

// d.q, d.k and d.v from lse and `delta`, and each query's part of a learned bias' gradient into `dbias`, unless null.
// done: what other kernels have made of it. d.k and d.v are made on `beside`.
void run_backward(const AttentionTensors& d, const AttentionTensors& t, const BackwardCall& call, Backward90 done,
                  const AttentionTables& tables, const AttentionSpec& spec, cudaStream_t beside, const Exec& exec) {
    const int64_t NH = t.q.shape[1], NKV = t.k.shape[1], HS = t.q.shape[2];
    check_attention_layout(d.q, "dq");
    const BackwardArguments arguments{call,
                                      {d.q.ptr<bf16>(), d.q.row_stride},
                                      key_gradients(d.k, "dk"),
                                      key_gradients(d.v, "dv"),
                                      rows_of(d.out, "dout"),
                                      rows_of(t.q, "q"),
                                      rows_of(t.k, "k"),
                                      rows_of(t.v, "v"),
                                      tables,
                                      make_key_bias(t.key_bias, spec, NH),
                                      {optional<float>(d.key_bias), static_cast<int32_t>(NH)}};
    const cudaStream_t stream = exec.cuda->stream();
    dispatch_attention(spec.weighting, HS, [&]<class V, int kHS>() {
        using Shape = BackwardShape<kHS>;
        allow_shared(dq_kernel<V, kHS>, Shape::kDqBytes);
        const auto run_dkv = [&](auto* kernel) {
            allow_shared(kernel, Shape::kDkvBytes);
            if (!done.dkv && tables.key_tile_count > 0)
                PLIMSOLL_LAUNCH(
                    kernel,
                    dim3(static_cast<unsigned>(tables.key_tile_count), static_cast<unsigned>(NKV), Shape::kParts),
                    dim3(kTileThreads), Shape::kDkvBytes, beside, arguments);
        };
        if (t.key_bias)
            run_dkv(dkv_kernel<V, kHS, true, true>);
        else
            arguments.mask.patterned ? run_dkv(dkv_kernel<V, kHS, true, false>)
                                     : run_dkv(dkv_kernel<V, kHS, false, false>);
        if (!done.dq && tables.query_tile_count > 0)
            PLIMSOLL_LAUNCH((dq_kernel<V, kHS>),
                            dim3(static_cast<unsigned>(tables.query_tile_count), static_cast<unsigned>(NH)),
                            dim3(kTileThreads), Shape::kDqBytes, stream, arguments);
    });
    launch_check("attention_backward");
}

// delta, and the gradients of gate and extra column; with a gate and `gated`, dout times the gate.
void run_rows(const AttentionTensors& d, float* delta, HeadView<bf16> gated, const AttentionTensors& t, Write write,
              const Exec& exec) {
    const int64_t N = t.out.shape[0], NH = t.out.shape[1], HS = t.out.shape[2];
    const cudaStream_t stream = exec.cuda->stream();
    PLIMSOLL_LAUNCH(delta_kernel, dim3(blocks_for(N * NH, kTileWarps)), dim3(kTileThreads), 0, stream, delta,
                    optional<bf16>(d.gate), gated, rows_of(d.out, "dout"), rows_of(t.out, "out"),
                    optional<bf16>(t.gate), N, static_cast<int>(NH), static_cast<int>(HS));
    if (t.sink_logit)
        PLIMSOLL_LAUNCH(sink_gradient_kernel, dim3(static_cast<unsigned>(NH)), dim3(kTileThreads), 0, stream,
                        d.sink_logit.ptr<float>(), t.sink_logit.ptr<float>(), t.lse.ptr<float>(), delta, N,
                        write == Write::kAccumulate);
    launch_check("attention_backward_rows");
}

void run_score_bias(const Tensor& dscore_bias, const float* rows, int64_t N, Write write, const Exec& exec) {
    PLIMSOLL_LAUNCH(score_bias_kernel, dim3(static_cast<unsigned>(dscore_bias.elements())), dim3(kTileThreads), 0,
                    exec.cuda->stream(), dscore_bias.ptr<float>(), rows, N, write == Write::kAccumulate);
    launch_check("score_bias_backward");
}

}  // namespace

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1];
    if (N == 0) return;
    if (is_wide(t)) return wide_attention_backward(d, t, cu_seqlens, spec, write, exec);
    const Backward90 on_sm90 = takes_sm90_backward(d, t, spec, exec);
    const int64_t row_words = on_sm90.dq ? sm90_backward_words(t) : 0;
    int32_t* const memory = exec.cuda->workspace<int32_t>(row_words + table_words(N) + (t.score_bias ? 2 : 1) * NH * N);
    auto* const rows = reinterpret_cast<float*>(memory);
    auto* const delta = reinterpret_cast<float*>(memory + row_words + table_words(N));
    // A weighting without normalisation knows no delta; a gate's gradient is made of it.
    if (is_normalized(spec.weighting) || t.gate) run_rows(d, delta, {}, t, write, exec);
    float* const dbias = t.score_bias ? delta + NH * N : nullptr;
    const BackwardCall call = backward_call(t, delta, dbias, spec);
    const AttentionTables tables = make_tables(memory + row_words, cu_seqlens, N, exec);
    float* const table = on_sm90.dq ? sm90_backward_rows(on_sm90, t, call, rows, tables, spec, exec) : nullptr;
    const cudaStream_t beside = exec.cuda->fork();
    if (on_sm90.dq) run_sm90_backward(on_sm90, d, t, call, table, tables, spec, beside, exec);
    if (!on_sm90.dq || !on_sm90.dkv) run_backward(d, t, call, on_sm90, tables, spec, beside, exec);
    exec.cuda->join();
    if (dbias) run_score_bias(d.score_bias, dbias, N, write, exec);
}

void score_bias_backward(Tensor dscore_bias, Tensor rows, Write write, const Exec& exec) {
    run_score_bias(dscore_bias, rows.ptr<float>(), rows.shape[1], write, exec);
}

void attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                             std::span<const int32_t> /*cu_seqlens*/, const AttentionSpec& /*spec*/, Write write,
                             const Exec& exec) {
    if (t.out.shape[0] > 0) run_rows(d, delta.ptr<float>(), {d.out.ptr<bf16>(), d.out.row_stride}, t, write, exec);
}

void attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                              const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    if (is_wide(t)) return wide_attention_tasks_backward(d, t, delta, tasks, spec, exec);
    int32_t* const memory = exec.cuda->workspace<int32_t>(table_words(tasks));
    const BackwardCall call = backward_call(t, optional<float>(delta), optional<float>(d.score_bias), spec);
    const AttentionTables tables = make_tables(memory, tasks, t.q.shape[0], exec);
    run_backward(d, t, call, {}, tables, spec, exec.cuda->fork(), exec);
    exec.cuda->join();
}

}  // namespace plimsoll::cuda
