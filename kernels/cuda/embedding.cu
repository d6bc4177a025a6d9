// Token and position embeddings. The backward sums rows per table entry in ascending order: rows are sorted by id, and
// a warp adds up one run of equal ids, without atomics.
#include "kernels/embedding.h"

#include <bit>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/sort.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kChannels = 4 * kWarp;  // of a warp in the backward

__global__ void __launch_bounds__(kThreads)
    embedding_forward_kernel(float* out, const int32_t* tokens, const int32_t* positions, const float* token_table,
                             const float* position_table, int64_t N, int64_t C) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= N * C) return;
    const int64_t n = i / C, c = i % C;
    float value = token_table[tokens[n] * C + c];
    if (position_table) value += position_table[positions[n] * C + c];
    out[i] = value;
}

// A warp per place in the sorted order; those that begin a run add it to their channels of the table's row.
__global__ void __launch_bounds__(kThreads)
    add_runs_kernel(float* table, const float* dout, const int32_t* ids, const int32_t* order, int64_t N, int64_t C) {
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
    if (begin >= N) return;
    const int32_t id = ids[order[begin]];
    if (begin > 0 && ids[order[begin - 1]] == id) return;
    int64_t end = begin + 1;
    while (end < N && ids[order[end]] == id) ++end;
    const int64_t last = (blockIdx.y + 1) * static_cast<int64_t>(kChannels) < C ? (blockIdx.y + 1) * kChannels : C;
    for (int64_t c = blockIdx.y * kChannels + threadIdx.x % kWarp; c < last; c += kWarp) {
        float sum = table[id * C + c];
        for (int64_t i = begin; i < end; ++i) sum += dout[order[i] * C + c];
        table[id * C + c] = sum;
    }
}

void add_rows(Tensor table, Tensor dout, std::span<const int32_t> ids, const Exec& exec) {
    const int64_t N = dout.shape[0], C = dout.shape[1];
    if (N == 0) return;
    int32_t* order = exec.cuda->workspace<int32_t>(N + sort_scratch(N));
    const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(table.shape[0] - 1)));
    sort_by_key(order, ids.data(), N, bits, order + N, exec);
    PLIMSOLL_LAUNCH(add_runs_kernel, dim3(blocks_for(N, kWarps), blocks_for(C, kChannels)), dim3(kThreads), 0,
                    exec.cuda->stream(), table.ptr<float>(), dout.ptr<float>(), ids.data(), order, N, C);
    launch_check("embedding_backward");
}

}  // namespace

void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec) {
    const int64_t N = out.shape[0], C = out.shape[1];
    if (N == 0) return;
    PLIMSOLL_LAUNCH(embedding_forward_kernel, dim3(blocks_for(N * C, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    out.ptr<float>(), tokens.data(), positions.data(), token_table.ptr<float>(),
                    optional<float>(position_table), N, C);
    launch_check("embedding_forward");
}

void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec) {
    add_rows(dtoken_table, dout, tokens, exec);
    if (dposition_table) add_rows(dposition_table, dout, positions, exec);
}

}  // namespace plimsoll::cuda
