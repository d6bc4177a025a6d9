#include "kernels/cuda/sort.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kDigitBits = 4, kDigits = 1 << kDigitBits, kThreads = 256;

PLIMSOLL_DEVICE int digit_of(int32_t key, int shift) {
    return key >> shift & (kDigits - 1);
}

// counts[digit][block] = how many of the block's keys have the digit.
__global__ void __launch_bounds__(kThreads)
    count_kernel(int32_t* counts, const int32_t* order, const int32_t* keys, int64_t N, int shift, bool first) {
    PLIMSOLL_SHARED(int32_t, here, [kDigits]);
    if (threadIdx.x < kDigits) here[threadIdx.x] = 0;
    __syncthreads();
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < N) atomicAdd(&here[digit_of(keys[first ? i : order[i]], shift)], 1);
    __syncthreads();
    if (threadIdx.x < kDigits) counts[static_cast<int64_t>(threadIdx.x) * gridDim.x + blockIdx.x] = here[threadIdx.x];
}

// counts becomes its exclusive running sum. One block, a part of the array at a time.
__global__ void __launch_bounds__(kThreads) scan_kernel(int32_t* counts, int64_t length) {
    PLIMSOLL_SHARED(int32_t, warps, [kThreads / kWarp]);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int32_t carry = 0;
    for (int64_t begin = 0; begin < length; begin += kThreads) {
        const int64_t i = begin + threadIdx.x;
        const int32_t value = i < length ? counts[i] : 0;
        int32_t sum = value;
        for (int offset = 1; offset < kWarp; offset *= 2) {
            const int32_t below = __shfl_up_sync(kAllLanes, sum, offset);
            if (lane >= offset) sum += below;
        }
        if (lane == kWarp - 1) warps[warp] = sum;
        __syncthreads();
        int32_t before = carry, total = carry;
        for (int w = 0; w < kThreads / kWarp; ++w) {
            if (w < warp) before += warps[w];
            total += warps[w];
        }
        if (i < length) counts[i] = before + sum - value;
        carry = total;
        __syncthreads();
    }
}

// Moves each index to its place: where its digit begins for this block, plus how many before it have the same digit.
__global__ void __launch_bounds__(kThreads) scatter_kernel(int32_t* to, const int32_t* from, const int32_t* keys,
                                                           const int32_t* begins, int64_t N, int shift, bool first) {
    PLIMSOLL_SHARED(int32_t, in_warp, [kThreads / kWarp][kDigits]);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    const int32_t index = i < N ? (first ? static_cast<int32_t>(i) : from[i]) : 0;
    const int digit = i < N ? digit_of(keys[index], shift) : -1;
    int rank = 0;
    for (int d = 0; d < kDigits; ++d) {
        const unsigned same = __ballot_sync(kAllLanes, digit == d);
        if (digit == d) rank = __popc(same & ((1u << lane) - 1));
        if (lane == 0) in_warp[warp][d] = __popc(same);
    }
    __syncthreads();
    if (i >= N) return;
    for (int w = 0; w < warp; ++w) rank += in_warp[w][digit];
    to[begins[static_cast<int64_t>(digit) * gridDim.x + blockIdx.x] + rank] = index;
}

}  // namespace

int64_t sort_scratch(int64_t N) {
    return N + static_cast<int64_t>(kDigits) * blocks_for(N, kThreads);
}

void sort_by_key(int32_t* order, const int32_t* keys, int64_t N, int bits, int32_t* scratch, const Exec& exec) {
    const unsigned blocks = blocks_for(N, kThreads);
    const cudaStream_t stream = exec.cuda->stream();
    const int passes = bits < 1 ? 1 : (bits + kDigitBits - 1) / kDigitBits;
    int32_t *counts = scratch + N, *from = scratch, *to = order;
    if (passes % 2 == 0) std::swap(from, to);  // the last pass writes to `order`
    for (int pass = 0; pass < passes; ++pass) {
        const int shift = pass * kDigitBits;
        PLIMSOLL_LAUNCH(count_kernel, dim3(blocks), dim3(kThreads), 0, stream, counts, from, keys, N, shift, pass == 0);
        PLIMSOLL_LAUNCH(scan_kernel, dim3(1), dim3(kThreads), 0, stream, counts,
                        static_cast<int64_t>(kDigits) * blocks);
        PLIMSOLL_LAUNCH(scatter_kernel, dim3(blocks), dim3(kThreads), 0, stream, to, from, keys, counts, N, shift,
                        pass == 0);
        std::swap(from, to);
    }
    launch_check("sort_by_key");
}

}  // namespace plimsoll::cuda
