// The asynchronous machinery of sm_90 on the emulated device: mbarriers, bulk copies (TMA), wgmma, registers of a
// warpgroup. What include/hopper.cuh stands on.
//
// Everything asynchronous is done as adversarially as the rules allow: a copy lands at a random later moment of the
// schedule, its destination holding NaNs until then; a wgmma runs when it is waited for, its accumulators holding a
// number that nobody computed until then, its operands read then, in shared memory and in registers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

// ---- mbarriers
// ---------------------------------------------------------------------------------------------------------
void mbarrier_init(void* barrier, unsigned arrivals);
void mbarrier_init_fence();
void mbarrier_arrive(void* barrier, unsigned expected_bytes);
void mbarrier_wait(void* barrier, unsigned parity);

// ---- bulk copies
// -------------------------------------------------------------------------------------------------------

// What a CUtensorMap says, of rank 4 and 2-byte elements. Strides in bytes, stride[0] is that of an element.
struct alignas(64) TensorMap {
    void* base;
    uint64_t size[4], stride[4];
    uint32_t box[4];
    uint32_t swizzle_bytes;  // 128, 64, 32, or 0 for none
};
void tma_load(void* to, const TensorMap& map, void* barrier, const int (&at)[4]);
void tma_store(const TensorMap& map, const void* from, const int (&at)[4]);
void bulk_load(void* to, const void* from, unsigned bytes, void* barrier);
void bulk_commit();
// Waits until at most this many groups of the thread's bulk stores are under way: reading, or at all.
void bulk_wait(unsigned groups_left, bool read_only);
void fence_proxy_async();

// ---- wgmma
// -------------------------------------------------------------------------------------------------------------

// One m64nNk16 as a lane sees it.
struct WgmmaLane {
    float* sums;        // N / 2
    const uint32_t* a;  // 4 registers, or null: from shared memory
    uint64_t a_descriptor, b_descriptor;
    int n;
    bool a_transposed, b_transposed, accumulate;
};
void wgmma(const WgmmaLane& lane);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(unsigned groups_left);

// The offset of an address in shared memory: its address as instructions see it.
uint32_t shared_offset(const void* address);
// Where an offset lies in memory when `swizzle_bytes` are swizzled: 16-byte units of a row change places.
uint32_t swizzled(uint32_t offset, uint32_t swizzle_bytes);

// ---- warps
// -------------------------------------------------------------------------------------------------------------

// setmaxnreg of the running warp; `increase` waits until other warps have given back enough.
void set_max_registers(unsigned registers, bool increase);
// True in one lane of the warp, drawn at random.
bool elect();

// ---- for the machine
// ---------------------------------------------------------------------------------------------------

class Block;
struct Thread;
void begin_copies(Block& block);
void begin_warpgroups(Block& block, unsigned threads);
// Before another thread goes on, `idle`: there is none. Lets copies land, which may make threads ready; whether any
// did.
bool land_copies(Block& block, bool idle);
// A thread has exited. Throws if it leaves reads of bulk stores, or wgmma, behind.
void end_stores(const Thread& thread);
void end_wgmma(const Thread& thread);
// All have. Throws if loads are under way or mbarriers expect bytes; if the warps of a warpgroup issued different
// wgmma.
void end_copies(Block& block);
void end_warpgroups(Block& block);

}  // namespace simt
