#include "simt/conformance.h"

#include <device.cuh>

namespace plimsoll {
namespace {

constexpr int kUnary = 1024;  // values of a function of one number

struct Exp2 {
    PLIMSOLL_DEVICE static float of(float x) { return device::exp2_approx(x); }
};
struct Log2 {
    PLIMSOLL_DEVICE static float of(float x) { return device::log2_approx(x < 0 ? -x : x); }
};
struct Rcp {
    PLIMSOLL_DEVICE static float of(float x) { return device::rcp_approx(x); }
};

template <class F>
__global__ void unary_kernel(const uint32_t* input, uint32_t* output) {
    for (int i = threadIdx.x; i < kUnary; i += blockDim.x)
        output[i] = __float_as_uint(F::of(__uint_as_float(input[i])));
}

__global__ void pack_kernel(const uint32_t* input, uint32_t* output) {
    for (int i = threadIdx.x; i < kUnary; i += blockDim.x)
        output[i] = device::pack_bf16(__uint_as_float(input[2 * i]), __uint_as_float(input[2 * i + 1]));
}

// Four 8 x 8 matrices of 16-bit elements: 128 words in, 4 words per lane out.
template <bool kTransposed>
__global__ void ldmatrix_kernel(const uint32_t* input, uint32_t* output) {
    PLIMSOLL_SHARED(uint4, rows, [32]);
    const int lane = threadIdx.x;
    rows[lane] = make_uint4(input[4 * lane], input[4 * lane + 1], input[4 * lane + 2], input[4 * lane + 3]);
    __syncwarp();
    uint32_t r[4];
    if constexpr (kTransposed)
        device::ldmatrix_x4_trans(r, &rows[lane]);
    else
        device::ldmatrix_x4(r, &rows[lane]);
    for (int i = 0; i < 4; ++i) output[4 * lane + i] = r[i];
}

// a: 4 words per lane, then b: 2, then c: 4 floats; out: 4 floats per lane.
__global__ void mma_kernel(const uint32_t* input, uint32_t* output) {
    const int lane = threadIdx.x;
    uint32_t a[4];
    float c[4];
    for (int i = 0; i < 4; ++i) a[i] = input[4 * lane + i], c[i] = __uint_as_float(input[192 + 4 * lane + i]);
    device::mma_m16n8k16(c, a, input[128 + 2 * lane], input[129 + 2 * lane]);
    for (int i = 0; i < 4; ++i) output[4 * lane + i] = __float_as_uint(c[i]);
}

// Two groups, the second with every third copy left out (zeros).
__global__ void cp_async_kernel(const uint32_t* input, uint32_t* output) {
    PLIMSOLL_SHARED(uint4, to, [2][32]);
    const int lane = threadIdx.x;
    for (int group = 0; group < 2; ++group) {
        device::cp_async_16(&to[group][lane], input + group * 128 + 4 * lane, group == 0 || lane % 3 != 0);
        device::cp_async_commit();
    }
    device::cp_async_wait<1>();
    __syncwarp();
    const uint4 first = to[0][lane ^ 1];
    device::cp_async_wait<0>();
    __syncwarp();
    const uint4 second = to[1][lane ^ 1];
    const uint32_t words[8] = {first.x, first.y, first.z, first.w, second.x, second.y, second.z, second.w};
    for (int i = 0; i < 8; ++i) output[8 * lane + i] = words[i];
}

// Warp 0 makes, warp 1 takes: arrive on one barrier, wait on another.
__global__ void named_barrier_kernel(const uint32_t* input, uint32_t* output) {
    PLIMSOLL_SHARED(uint32_t, made, [32]);
    const int lane = threadIdx.x % 32;
    if (threadIdx.x < 32) {
        made[lane] = input[lane] * 3;
        device::named_barrier_arrive(1, 64);
        device::named_barrier_sync(2, 64);
    } else {
        device::named_barrier_sync(1, 64);
        output[lane] = made[31 - lane];
        device::named_barrier_arrive(2, 64);
    }
}

#define PLIMSOLL_CASE(kernel, threads)                                              \
    [](const uint32_t* input, uint32_t* output) {                                   \
        PLIMSOLL_LAUNCH(kernel, dim3(1), dim3(threads), 0, nullptr, input, output); \
    }

}  // namespace

const std::vector<ConformanceCase>& conformance_cases() {
    static const std::vector<ConformanceCase> cases{
        {"exp2_approx", kUnary, kUnary, PLIMSOLL_CASE(unary_kernel<Exp2>, 64)},
        {"log2_approx", kUnary, kUnary, PLIMSOLL_CASE(unary_kernel<Log2>, 64)},
        {"rcp_approx", kUnary, kUnary, PLIMSOLL_CASE(unary_kernel<Rcp>, 64)},
        {"pack_bf16", 2 * kUnary, kUnary, PLIMSOLL_CASE(pack_kernel, 64)},
        {"ldmatrix_x4", 128, 128, PLIMSOLL_CASE(ldmatrix_kernel<false>, 32)},
        {"ldmatrix_x4_trans", 128, 128, PLIMSOLL_CASE(ldmatrix_kernel<true>, 32)},
        {"mma_m16n8k16", 320, 128, PLIMSOLL_CASE(mma_kernel, 32)},
        {"cp_async_16 cp_async_commit cp_async_wait", 256, 256, PLIMSOLL_CASE(cp_async_kernel, 32)},
        {"named_barrier_sync named_barrier_arrive", 32, 32, PLIMSOLL_CASE(named_barrier_kernel, 64)},
    };
    return cases;
}

}  // namespace plimsoll
