// The async proxy: how wgmma and bulk copies (TMA) see shared memory, and when what they do counts as done. Part of the
// detector; internal to the emulator.
//
// What a thread writes (the generic proxy) they may read once the writer has executed fence.proxy.async and a barrier
// has ordered that fence before them. What a copy writes a thread may touch once it has waited for the copy's mbarrier,
// or met somebody who has. What they read nobody may write from their issue on until the wait that ends it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

constexpr unsigned kWarpActors = 32, kBarrierActors = 64;  // per block: warps as issuers of wgmma, mbarriers

namespace detector {

// Actors beside the threads: a warp's wgmma, and the copies that an mbarrier counts.
unsigned warp_actor(unsigned warp);
unsigned barrier_actor(unsigned slot);

// The running thread executes fence.proxy.async.
void fence_async_proxy();
// A copy writes here from now on: issued by the running thread, done for those who have seen `actor` at `clock`.
void copy_writes(const void* address, size_t bytes, unsigned actor, uint32_t clock, const void* site);
// A read of the async proxy, issued by the running thread, begins; 16-byte aligned.
void async_read_begins(const void* address, size_t bytes, const char* who, const void* site);
// It ends, for those who have seen the warp's wgmma at `clock`; or for the running thread.
void wgmma_read_ends(const void* address, size_t bytes, unsigned warp, uint32_t clock);
void copy_read_ends(const void* address, size_t bytes, const void* site);
// From now on these bytes are an mbarrier.
void hold_barrier(const void* address);

}  // namespace detector
}  // namespace simt
