#include "simt/planted_bugs.h"

#include <device.cuh>

namespace plimsoll {
namespace {

constexpr unsigned kAll = ~0u;

template <Bug kBug>
__global__ void __launch_bounds__(256) block_sum(const float* __restrict__ x, float* out, int n) {
    PLIMSOLL_SHARED(float, partial, [8]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float sum = 0;
    const int end = n + (kBug == Bug::kReadsPastTheEnd ? 8 : 0);
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < end; i += gridDim.x * blockDim.x) sum += x[i];
    for (int offset = 16; offset; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
    if (lane == 0) partial[warp] = sum;
    if constexpr (kBug == Bug::kDivergentBarrier) {
        if (warp < 4)
            __syncthreads();
        else
            __syncthreads();
    } else if constexpr (kBug != Bug::kNoBarrier) {
        __syncthreads();
    }
    if constexpr (kBug == Bug::kLanesMissing) {
        if (lane < 7) sum += __shfl_xor_sync(kAll, sum, 1);
    }
    if (threadIdx.x == 0) {
        float total = 0;
        for (int w = 0; w < 8; ++w) total += partial[w];
        if constexpr (kBug == Bug::kPlainSumAcrossBlocks)
            *out += total;
        else
            atomicAdd(out, total);
    }
}

template <Bug kBug>
__global__ void __launch_bounds__(128) pipeline(const float* __restrict__ x, float* out, int tiles) {
    PLIMSOLL_DYNAMIC_SHARED(bytes);
    float* stages = reinterpret_cast<float*>(bytes);
    const int t = threadIdx.x;
    const auto load = [&](int tile) {
        if (tile < tiles && t < 32) device::cp_async_16(stages + tile % 2 * 128 + 4 * t, x + tile * 128 + 4 * t);
        device::cp_async_commit();
    };
    float sum = 0;
    load(0);
    for (int tile = 0; tile < tiles; ++tile) {
        load(tile + 1);
        if constexpr (kBug == Bug::kExitsWithCopies) {
            if (tile + 1 == tiles) break;
        }
        device::cp_async_wait<kBug == Bug::kWaitsForOneGroupLess ? 2 : 1>();
        if constexpr (kBug != Bug::kNoBarrierAfterLoad) __syncthreads();
        sum += stages[tile % 2 * 128 + (t + 1) % 128];
        if constexpr (kBug != Bug::kNoBarrierBeforeReuse) __syncthreads();
    }
    if constexpr (kBug != Bug::kExitsWithCopies) device::cp_async_wait<0>();
    out[t] = sum;
}

template <Bug kBug>
__global__ void __launch_bounds__(64) exchange(const float* __restrict__ x, float* out) {
    PLIMSOLL_SHARED(float, values, [64]);
    const int t = threadIdx.x;
    if (kBug != Bug::kUninitialised || t != 5) values[kBug == Bug::kWrongSharedIndex && t == 63 ? 64 : t] = x[t];
    if constexpr (kBug == Bug::kShuffleAsFence)
        __shfl_sync(kAll, t, 0);
    else if constexpr (kBug == Bug::kBarrierCountTooHigh)
        device::named_barrier_sync(1, 96);
    else if constexpr (kBug == Bug::kLanesInDifferentOps)
        t % 2 ? (void)__shfl_sync(kAll, t, 0) : (void)__ballot_sync(kAll, t);
    else
        __syncwarp();
    out[t] = values[t ^ 1];
}

__global__ void small_product(const uint16_t* a, const uint16_t* b, float* c) {
    PLIMSOLL_SHARED(uint16_t, tile,
                    [16 * 16 + 16 * 16]);  // b is padded to 16 columns, so that two matrices load at once
    const int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) tile[i] = a[i], tile[256 + i] = i % 16 < 8 ? b[i / 16 * 8 + i % 16] : 0;
    __syncwarp();
    uint32_t fragment_a[4], fragment_b[4];
    device::ldmatrix_x4(fragment_a, tile + lane % 16 * 16 + lane / 16 * 8);
    device::ldmatrix_x4_trans(fragment_b, tile + 256 + lane % 16 * 16 + lane / 16 * 8);
    float sums[4] = {};
    device::mma_m16n8k16(sums, fragment_a, fragment_b[0], fragment_b[1]);
    for (int i = 0; i < 4; ++i) c[(lane / 4 + 8 * (i / 2)) * 8 + 2 * (lane % 4) + i % 2] = sums[i];
}

__global__ void count_threads(int* out, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y) {
    const bool right = gridDim.x == grid_x && gridDim.y == grid_y && blockDim.x == block_x && blockDim.y == block_y &&
                       blockIdx.x < grid_x && blockIdx.y < grid_y && threadIdx.x < block_x && threadIdx.y < block_y;
    if (right) atomicAdd(out, 1);
}

__global__ void touch_dynamic_shared(unsigned bytes) {
    PLIMSOLL_DYNAMIC_SHARED(memory);
    if (threadIdx.x == 0) memory[bytes - 1] = 1;
}

// Calls `f.template operator()<bug>()` for the run-time value.
template <Bug... kBugs, class F>
void dispatch(Bug bug, F&& f) {
    ((bug == kBugs ? f.template operator()<kBugs>() : void()), ...);
}

}  // namespace

void launch_block_sum(Bug bug, const float* x, float* out, int n, int blocks) {
    dispatch<Bug::kNone, Bug::kNoBarrier, Bug::kReadsPastTheEnd, Bug::kPlainSumAcrossBlocks, Bug::kDivergentBarrier,
             Bug::kLanesMissing>(
        bug, [&]<Bug kBug>() { PLIMSOLL_LAUNCH(block_sum<kBug>, dim3(blocks), dim3(256), 0, nullptr, x, out, n); });
}

void launch_pipeline(Bug bug, const float* x, float* out, int tiles) {
    dispatch<Bug::kNone, Bug::kWaitsForOneGroupLess, Bug::kNoBarrierAfterLoad, Bug::kNoBarrierBeforeReuse,
             Bug::kExitsWithCopies>(
        bug, [&]<Bug kBug>() { PLIMSOLL_LAUNCH(pipeline<kBug>, dim3(1), dim3(128), 1024, nullptr, x, out, tiles); });
}

void launch_exchange(Bug bug, const float* x, float* out) {
    dispatch<Bug::kNone, Bug::kShuffleAsFence, Bug::kWrongSharedIndex, Bug::kUninitialised, Bug::kBarrierCountTooHigh,
             Bug::kLanesInDifferentOps>(
        bug, [&]<Bug kBug>() { PLIMSOLL_LAUNCH(exchange<kBug>, dim3(1), dim3(64), 0, nullptr, x, out); });
}

void launch_small_product(const uint16_t* a, const uint16_t* b, float* c) {
    PLIMSOLL_LAUNCH(small_product, dim3(1), dim3(32), 0, nullptr, a, b, c);
}

void launch_count_threads(int* out, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y) {
    PLIMSOLL_LAUNCH(count_threads, dim3(grid_x, grid_y), dim3(block_x, block_y), 0, nullptr, out, grid_x, grid_y,
                    block_x, block_y);
}

void launch_with_dynamic_shared(unsigned bytes, bool raise_limit) {
    if (raise_limit)
        cudaFuncSetAttribute(touch_dynamic_shared, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes));
    PLIMSOLL_LAUNCH(touch_dynamic_shared, dim3(1), dim3(32), bytes, nullptr, bytes);
}

}  // namespace plimsoll
