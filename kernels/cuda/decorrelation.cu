// Decorrelation of a stream from its documents' first tokens (kernels/decorrelation.h): a warp per token.
#include "kernels/decorrelation.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kTokensPerBlock = 4, kSumThreads = 256;

__global__ void __launch_bounds__(kTokensPerBlock* kWarp)
    decorrelation_kernel(float* dh, float* squares, const float* h, const int32_t* positions, int64_t N, int64_t C,
                         float scale) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kTokensPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int lane = threadIdx.x % kWarp, position = positions[n];
    const float *row = h + n * C, *first = row - position * C;
    float own = 0, others = 0, both = 0;
    for (int64_t c = lane; c < C; c += kWarp) {
        const float a = row[c], b = first[c];
        own += a * a, others += b * b, both += a * b;
    }
    own = warp_sum(own), others = warp_sum(others), both = warp_sum(both);
    const float product = sqrtf(own) * sqrtf(others);
    const bool counts = position > 0 && product > 0;
    const float cosine = counts ? both / product : 0.0f;
    if (lane == 0) squares[n] = cosine * cosine;
    if (!counts) return;
    const float of_first = 2 * scale * cosine / product, of_row = -2 * scale * cosine * cosine / own;
    for (int64_t c = lane; c < C; c += kWarp) dh[n * C + c] += of_first * first[c] + of_row * row[c];
}

// One block: each thread adds up every kSumThreads-th row, then thread 0 adds the threads' sums in order.
__global__ void __launch_bounds__(kSumThreads) squares_kernel(double* sum, const float* squares, int64_t N) {
    PLIMSOLL_SHARED(double, sums, [kSumThreads]);
    double mine = 0;
    for (int64_t n = threadIdx.x; n < N; n += kSumThreads) mine += static_cast<double>(squares[n]);
    sums[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int t = 1; t < kSumThreads; ++t) mine += sums[t];
    *sum += mine;
}

}  // namespace

void decorrelation_backward(Tensor dh, Tensor sum, Tensor squares, Tensor h, std::span<const int32_t> positions,
                            double scale, const Exec& exec) {
    const int64_t N = h.shape[0], C = h.shape[1];
    if (N == 0) return;
    PLIMSOLL_LAUNCH(decorrelation_kernel, dim3(blocks_for(N, kTokensPerBlock)), dim3(kTokensPerBlock * kWarp), 0,
                    exec.cuda->stream(), dh.ptr<float>(), squares.ptr<float>(), h.ptr<float>(), positions.data(), N, C,
                    static_cast<float>(scale));
    PLIMSOLL_LAUNCH(squares_kernel, dim3(1), dim3(kSumThreads), 0, exec.cuda->stream(), sum.ptr<double>(),
                    squares.ptr<float>(), N);
    launch_check("decorrelation_backward");
}

}  // namespace plimsoll::cuda
