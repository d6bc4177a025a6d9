// What the CUDA kernels share: error checks, packs of elements, reductions of a warp.
//
// Conventions: one stream (exec.cuda->stream()); a warp or a block per row; sums in fp32 in a fixed order, so equal
// inputs give equal bits; 64-bit offsets. Launchers stand below their kernels and trust shapes checked by
// dispatch*.cpp.
#pragma once

#include <device.cuh>

#include "kernels/cuda/context.h"
#include "kernels/cuda/cuda.h"

namespace plimsoll::cuda {

inline constexpr int kWarp = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// Neighbouring elements that are loaded and stored at once.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
    T at[kCount];
};

template <class T, int kCount>
PLIMSOLL_DEVICE Pack<float, kCount> load(const T* from) {
    const auto raw = *reinterpret_cast<const Pack<T, kCount>*>(from);
    Pack<float, kCount> values;
#pragma unroll
    for (int i = 0; i < kCount; ++i) values.at[i] = static_cast<float>(raw.at[i]);
    return values;
}

template <class T, int kCount>
PLIMSOLL_DEVICE void store(T* to, const Pack<float, kCount>& values) {
    Pack<T, kCount> raw;
#pragma unroll
    for (int i = 0; i < kCount; ++i) raw.at[i] = static_cast<T>(values.at[i]);
    *reinterpret_cast<Pack<T, kCount>*>(to) = raw;
}

// Sums and maxima over the lanes of a warp, the same in every lane.
template <class T>
PLIMSOLL_DEVICE T warp_sum(T value) {
#pragma unroll
    for (int offset = kWarp / 2; offset; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
}
PLIMSOLL_DEVICE float warp_max(float value) {
#pragma unroll
    for (int offset = kWarp / 2; offset; offset /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, offset));
    return value;
}

// The mathematics of the GPU for attention variants (kernels/attention/variant.h).
struct DeviceMath {
    PLIMSOLL_DEVICE static float exp(float x) { return device::exp2_approx(x * 1.4426950408889634f); }
    PLIMSOLL_DEVICE static float reciprocal(float x) { return device::rcp_approx(x); }
};

PLIMSOLL_DEVICE float sigmoid(float x) {
    return 1.0f / (1.0f + DeviceMath::exp(-x));
}

// How many blocks of `per_block` cover `count`.
inline unsigned blocks_for(int64_t count, int64_t per_block) {
    return static_cast<unsigned>((count + per_block - 1) / per_block);
}

// Throws Error if the launch before it was refused.
inline void launch_check(const char* kernel) {
    check_cuda(cudaGetLastError(), kernel);
}

// The data of a tensor that may be absent.
template <class T>
T* optional(const Tensor& tensor) {
    return tensor ? tensor.ptr<T>() : nullptr;
}

// Whether rows of `C` elements can be read four at a time.
inline bool fours(int64_t C, std::initializer_list<const Tensor*> tensors) {
    if (C % 4) return false;
    for (const Tensor* t : tensors)
        if (reinterpret_cast<uintptr_t>(t->data) % 16 || t->row_stride % 4) return false;
    return true;
}

// Calls f<4>() or, where rows do not allow it, f<1>(): elements per thread.
template <class F>
void by_vectors(bool vectors, F&& f) {
    if (vectors)
        f.template operator()<4>();
    else
        f.template operator()<1>();
}

// Calls f<T>() for fp32 or bf16, the dtypes of this backend.
template <class F>
void dispatch_device_float(DType dtype, F&& f) {
    if (dtype == DType::kF32) return f.template operator()<float>();
    if (dtype == DType::kBF16) return f.template operator()<bf16>();
    fail_input("the CUDA backend computes in fp32 and bf16, not in {}", name_of(dtype));
}

}  // namespace plimsoll::cuda
