// The seam between a kernel and the machine it runs on: launches, shared memory, and the PTX instructions plimsoll
// uses, each under a name. Nothing else contains PTX or <<<>>>. The emulated build has a twin of this file with the
// same declarations (tests/support/simt/include/device.cuh), so that kernels run on a CPU from the same source.
//
// Instructions: PTX ISA 8.x, sm_80 and later.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// Starts kernel<<<grid, block, shared_bytes, stream>>>(arguments...). Not checked: see launch_check() in common.cuh.
#define PLIMSOLL_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
// Declares `name`, the block's dynamic shared memory (uint8_t*, 1024-byte aligned).
#define PLIMSOLL_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) uint8_t name[]
// Declares a __shared__ variable: PLIMSOLL_SHARED(float, sums, [32]).
#define PLIMSOLL_SHARED(type, name, ...) __shared__ type name __VA_ARGS__

#define PLIMSOLL_DEVICE __device__ __forceinline__

namespace plimsoll::device {

// ---- arithmetic
// -------------------------------------------------------------------------------------------------------

// 2^x, to 2 ulp; results below 2^-126 are 0.
PLIMSOLL_DEVICE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// log2(x), absolute error 2^-22 near 1.
PLIMSOLL_DEVICE float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x, to 1 ulp.
PLIMSOLL_DEVICE float rcp_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Two floats as bf16, rounded to nearest even, `low` in the lower half: the layout of mma operands.
PLIMSOLL_DEVICE uint32_t pack_bf16(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// ---- tensor cores
// -----------------------------------------------------------------------------------------------------

PLIMSOLL_DEVICE uint32_t shared_pointer(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane 8 m + i points at row i of matrix m (16-byte
// aligned); lane l gets elements 2 (l % 4), + 1 of row l / 4 of matrix m in r[m].
PLIMSOLL_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_pointer(row))
                 : "memory");
}
// The same, each matrix transposed.
PLIMSOLL_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_pointer(row))
                 : "memory");
}
// c (16, 8) += a (16, 16) b (16, 8), bf16 operands, fp32 sums. With g = lane / 4, t = lane % 4:
//   c[i]: row g + 8 (i / 2), column 2 t + i % 2;   a[i]: row g + 8 (i % 2), columns 2 t + 8 (i / 2), + 1;
//   b_i: rows 2 t + 8 i, + 1, column g.
PLIMSOLL_DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- asynchronous copies
// ----------------------------------------------------------------------------------------------

// 16 bytes from global to shared memory, or 16 zero bytes if not `valid` (then nothing is read). Lands by the time its
// group is waited for; other threads need a barrier after that.
PLIMSOLL_DEVICE void cp_async_16(void* to, const void* from, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(shared_pointer(to)), "l"(from), "r"(valid ? 16 : 0)
                 : "memory");
}
// Closes a group of the copies since the last one.
PLIMSOLL_DEVICE void cp_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most this many of the thread's youngest groups are under way.
template <int kGroupsLeft>
PLIMSOLL_DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" : : "n"(kGroupsLeft) : "memory");
}

// ---- barriers
// ---------------------------------------------------------------------------------------------------------

// Barrier `id` of 1 .. 15 for `threads` threads, a multiple of 32.
PLIMSOLL_DEVICE void named_barrier_sync(int id, int threads) {
    asm volatile("bar.sync %0, %1;" : : "r"(id), "r"(threads) : "memory");
}
PLIMSOLL_DEVICE void named_barrier_arrive(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" : : "r"(id), "r"(threads) : "memory");
}

}  // namespace plimsoll::device
