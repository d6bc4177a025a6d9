// The seam between a kernel and the machine it runs on, for the emulated device. Twin of
// kernels/cuda/native/device.cuh, which has the same declarations over PTX, and the documentation.
#pragma once

#include "cuda_runtime.h"

#define PLIMSOLL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::simt::launch_kernel(#kernel, kernel, grid, block, shared_bytes, stream __VA_OPT__(, ) __VA_ARGS__)
#define PLIMSOLL_DYNAMIC_SHARED(name) uint8_t* const name = ::simt::dynamic_shared()
#define PLIMSOLL_SHARED(type, name, ...)                                \
    static const char name##_key = 0;                                   \
    auto& name = *static_cast<std::type_identity_t<type __VA_ARGS__>*>( \
        ::simt::shared_variable(&name##_key, sizeof(std::type_identity_t<type __VA_ARGS__>), alignof(type)))

#define PLIMSOLL_DEVICE inline

namespace plimsoll::device {

// ---- arithmetic
inline float exp2_approx(float x) {
    return std::exp2(x);
}
inline float log2_approx(float x) {
    return std::log2(x);
}
inline float rcp_approx(float x) {
    return 1.0f / x;
}
uint32_t pack_bf16(float low, float high);

// ---- tensor cores
void ldmatrix_x4(uint32_t (&r)[4], const void* row);
void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row);
void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

// ---- asynchronous copies
inline void cp_async_16(void* to, const void* from, bool valid = true) {
    ::simt::async_copy(to, from, 16, valid ? 16 : 0);
}
inline void cp_async_commit() {
    ::simt::async_commit();
}
template <int kGroupsLeft>
void cp_async_wait() {
    ::simt::async_wait(kGroupsLeft);
}

// ---- barriers
inline void named_barrier_sync(int id, int threads) {
    ::simt::barrier(id, threads, 0);
}
inline void named_barrier_arrive(int id, int threads) {
    ::simt::barrier_arrive(id, threads);
}

}  // namespace plimsoll::device
