// What sm_90a has beside device.cuh: mbarriers, bulk copies (TMA), wgmma, registers per warpgroup. Twin:
// tests/support/simt/include/hopper.cuh.
//
// Instructions: PTX ISA 8.x, sm_90a. Where PLIMSOLL_HAS_SM90A is 0 a kernel that uses them must have no body.
#pragma once

#include <tensor_map_type.h>
#include <device.cuh>

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PLIMSOLL_HAS_SM90A 1
#else
#define PLIMSOLL_HAS_SM90A 0
#endif

namespace plimsoll::device {

// ---- mbarriers
// --------------------------------------------------------------------------------------------------------
// A phase of an mbarrier is complete when as many threads as it was made for have arrived and all bytes have landed
// that they said to expect; then the next begins. Phase n has parity n % 2.

struct alignas(8) Mbarrier {
    uint64_t bits;
};
// In shared memory, by one thread; others may use it after mbarrier_init_fence() and a barrier.
PLIMSOLL_DEVICE void mbarrier_init(Mbarrier* barrier, unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(shared_pointer(barrier)), "r"(arrivals) : "memory");
}
PLIMSOLL_DEVICE void mbarrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
PLIMSOLL_DEVICE void mbarrier_arrive(Mbarrier* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(shared_pointer(barrier)) : "memory");
}
// Arrives, and has this phase wait for bytes of bulk copies.
PLIMSOLL_DEVICE void mbarrier_arrive_expect(Mbarrier* barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :
                 : "r"(shared_pointer(barrier)), "r"(bytes)
                 : "memory");
}
// Waits until the running phase is not of this parity: of 0, until the first phase is complete; of 1, on a new
// mbarrier, not at all. What happened before the arrivals, and what the copies wrote, is then visible.
PLIMSOLL_DEVICE void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}"
        :
        : "r"(shared_pointer(barrier)), "r"(parity)
        : "memory");
}

// ---- bulk copies
// ------------------------------------------------------------------------------------------------------

// Fetches a map ahead of its use.
PLIMSOLL_DEVICE void tma_prefetch(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];" : : "l"(map) : "memory");
}
// Copies the box at coordinates c0 .. c3, c0 the fastest, from global to shared memory (128-byte aligned), and tells
// the mbarrier its bytes. What is outside of the tensor becomes zeros and counts like the rest.
PLIMSOLL_DEVICE void tma_load(void* to, const TensorMap* map, Mbarrier* barrier, int c0, int c1, int c2, int c3) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
        "[%2];"
        :
        : "r"(shared_pointer(to)), "l"(map), "r"(shared_pointer(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
        : "memory");
}
// The other way; nothing is written outside of the tensor. Belongs to a group of the thread's.
PLIMSOLL_DEVICE void tma_store(const TensorMap* map, const void* from, int c0, int c1, int c2, int c3) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];"
                 :
                 : "l"(map), "r"(shared_pointer(from)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}
// Copies bytes from global to shared memory; all three multiples of 16.
PLIMSOLL_DEVICE void bulk_load(void* to, const void* from, unsigned bytes, Mbarrier* barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :
                 : "r"(shared_pointer(to)), "l"(from), "r"(bytes), "r"(shared_pointer(barrier))
                 : "memory");
}
// Closes a group of the thread's stores since the last one.
PLIMSOLL_DEVICE void bulk_commit() {
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Waits until at most this many of its youngest groups still read shared memory; or are not yet in global memory.
template <int kGroupsLeft>
PLIMSOLL_DEVICE void bulk_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" : : "n"(kGroupsLeft) : "memory");
}
template <int kGroupsLeft>
PLIMSOLL_DEVICE void bulk_wait() {
    asm volatile("cp.async.bulk.wait_group %0;" : : "n"(kGroupsLeft) : "memory");
}
// What this thread wrote to shared memory is visible to wgmma and bulk copies that a barrier orders behind it.
PLIMSOLL_DEVICE void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- warps
// ------------------------------------------------------------------------------------------------------------

// Four 8 x 8 matrices of 16-bit elements to shared memory: ldmatrix_x4 the other way round.
PLIMSOLL_DEVICE void stmatrix_x4(void* row, const uint32_t (&r)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 :
                 : "r"(shared_pointer(row)), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}
// Registers per thread of the whole warpgroup from here on, a multiple of 8 from 24 to 256. An increase waits until
// others have given back enough.
template <int kRegisters>
PLIMSOLL_DEVICE void increase_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(kRegisters));
}
template <int kRegisters>
PLIMSOLL_DEVICE void decrease_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(kRegisters));
}
// True in one lane of a whole warp.
PLIMSOLL_DEVICE bool elect_one() {
    uint32_t elected;
    asm volatile(
        "{\n"
        ".reg .pred chosen;\n"
        "elect.sync _|chosen, 0xffffffff;\n"
        "selp.u32 %0, 1, 0, chosen;\n"
        "}"
        : "=r"(elected));
    return elected != 0;
}

}  // namespace plimsoll::device

#include <wgmma.cuh>
