// The norm of all gradients: a block per kNormBlock elements, then one block over their sums.
#include "kernels/global_norm.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/square_sum.h"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

// The sum over a block's threads, in thread 0; warps are folded in order.
PLIMSOLL_DEVICE double block_sum(double value) {
    PLIMSOLL_SHARED(double, sums, [kThreads / kWarp]);
    value = warp_sum(value);
    if (threadIdx.x % kWarp == 0) sums[threadIdx.x / kWarp] = value;
    __syncthreads();
    if (threadIdx.x > 0) return 0;
    double total = 0;
    for (int w = 0; w < kThreads / kWarp; ++w) total += sums[w];
    return total;
}

// Each thread's squares in fp32 are exact enough only one by one: they are added in fp64.
__global__ void __launch_bounds__(kThreads) square_sums_kernel(double* partial, const float* x, int64_t count) {
    const int64_t begin = blockIdx.x * kNormBlock, end = begin + kNormBlock < count ? begin + kNormBlock : count;
    double sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
        const double value = x[i];
        sum += value * value;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) total_kernel(double* out, const double* partial, int64_t count) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *out = sum;
}

}  // namespace

const double* square_sum_on_device(const float* x, int64_t count, const Exec& exec) {
    const unsigned blocks = blocks_for(count, kNormBlock);
    double* partial = exec.cuda->workspace<double>(blocks + 1);
    PLIMSOLL_LAUNCH(square_sums_kernel, dim3(blocks), dim3(kThreads), 0, exec.cuda->stream(), partial + 1, x, count);
    PLIMSOLL_LAUNCH(total_kernel, dim3(1), dim3(kThreads), 0, exec.cuda->stream(), partial, partial + 1,
                    static_cast<int64_t>(blocks));
    launch_check("sum_of_squares");
    return partial;
}

double sum_of_squares(Tensor x, const Exec& exec) {
    if (x.elements() == 0) return 0;
    const double* sum = square_sum_on_device(x.ptr<float>(), x.elements(), exec);
    double total = 0;
    check_cuda(cudaMemcpyAsync(&total, sum, sizeof total, cudaMemcpyDeviceToHost, exec.cuda->stream()),
               "sum_of_squares");
    exec.cuda->synchronize();
    return total;
}

}  // namespace plimsoll::cuda
