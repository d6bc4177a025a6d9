// What sm_90a has beside device.cuh, for the emulated device. Twin of kernels/cuda/native/hopper.cuh, which has the
// same declarations over PTX, and the documentation.
#pragma once

#include "device.cuh"
#include "tensor_map_type.h"

#define PLIMSOLL_HAS_SM90A 1

namespace plimsoll::device {

// ---- mbarriers
struct alignas(8) Mbarrier {
    uint64_t bits;
};
inline void mbarrier_init(Mbarrier* barrier, unsigned arrivals) {
    ::simt::mbarrier_init(barrier, arrivals);
}
inline void mbarrier_init_fence() {
    ::simt::mbarrier_init_fence();
}
inline void mbarrier_arrive(Mbarrier* barrier) {
    ::simt::mbarrier_arrive(barrier, 0);
}
inline void mbarrier_arrive_expect(Mbarrier* barrier, unsigned bytes) {
    ::simt::mbarrier_arrive(barrier, bytes);
}
inline void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
    ::simt::mbarrier_wait(barrier, parity);
}

// ---- bulk copies
inline void tma_prefetch(const TensorMap* /*map*/) {}
inline void tma_load(void* to, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3) {
    ::simt::tma_load(to, *map, barrier, {c0, c1, c2, c3});
}
inline void tma_store(const TensorMap* map, const void* from, int c0, int c1, int c2, int c3) {
    ::simt::tma_store(*map, from, {c0, c1, c2, c3});
}
inline void bulk_load(void* to, const void* from, unsigned bytes, Mbarrier* barrier) {
    ::simt::bulk_load(to, from, bytes, barrier);
}
inline void bulk_commit() {
    ::simt::bulk_commit();
}
template <int kGroupsLeft>
void bulk_wait_read() {
    ::simt::bulk_wait(kGroupsLeft, true);
}
template <int kGroupsLeft>
void bulk_wait() {
    ::simt::bulk_wait(kGroupsLeft, false);
}
inline void fence_proxy_async() {
    ::simt::fence_proxy_async();
}

// ---- wgmma
inline uint32_t shared_address(const void* pointer) {
    return ::simt::shared_offset(pointer);
}
inline void wgmma_fence() {
    ::simt::wgmma_fence();
}
inline void wgmma_commit() {
    ::simt::wgmma_commit();
}
template <int kGroupsLeft>
void wgmma_wait() {
    ::simt::wgmma_wait(kGroupsLeft);
}
template <bool kTransposedA, bool kTransposedB, int kCount>
void wgmma_shared(float (&sums)[kCount], uint64_t a, uint64_t b, bool accumulate) {
    ::simt::wgmma({sums, nullptr, a, b, 2 * kCount, kTransposedA, kTransposedB, accumulate});
}
template <bool kTransposedB, int kCount>
void wgmma_registers(float (&sums)[kCount], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    ::simt::wgmma({sums, a, 0, b, 2 * kCount, false, kTransposedB, accumulate});
}
template <int kCount>
void hold_registers(float (&/*values*/)[kCount]) {}

// ---- warps
void stmatrix_x4(void* row, const uint32_t (&r)[4]);
template <int kRegisters>
void increase_registers() {
    ::simt::set_max_registers(kRegisters, true);
}
template <int kRegisters>
void decrease_registers() {
    ::simt::set_max_registers(kRegisters, false);
}
inline bool elect_one() {
    return ::simt::elect();
}

}  // namespace plimsoll::device
