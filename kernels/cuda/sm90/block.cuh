// What the kernels of attention on sm_90a share: blocks that stay and take pieces of work in turn, tiles that come
// through rings of stages, and the barriers of both behind the tiles in shared memory.
#pragma once

#include "kernels/cuda/sm90/schedule.h"
#include "kernels/cuda/sm90/warpgroup.cuh"

namespace plimsoll::cuda {

// kStages places for loads that follow one another, counted from 0 on as long as the block lives: the n-th is at place
// n % kStages. One thread loads; `readers` arrivals give a place back.
template <int kStages>
struct Ring {
    device::Mbarrier full[kStages], empty[kStages];

    // By one thread, before anybody uses it, and before mbarrier_init_fence().
    PLIMSOLL_DEVICE void make(int readers) {
        for (int s = 0; s < kStages; ++s) {
            device::mbarrier_init(&full[s], 1);
            device::mbarrier_init(&empty[s], readers);
        }
    }
    // Waits for the n-th load's place, and returns what its loads, of so many bytes in all, have to tell.
    PLIMSOLL_DEVICE device::Mbarrier* begin_load(int n, int bytes) {
        device::mbarrier_wait(&empty[n % kStages], parity(n) ^ 1);
        device::mbarrier_arrive_expect(&full[n % kStages], bytes);
        return &full[n % kStages];
    }
    PLIMSOLL_DEVICE void wait(int n) { device::mbarrier_wait(&full[n % kStages], parity(n)); }
    // This warp is done with the n-th load. A warp's wait for wgmma is its own: `readers` counts kGroupWarps arrivals
    // of each warpgroup.
    PLIMSOLL_DEVICE void release(int n, int lane) {
        if (lane == 0) device::mbarrier_arrive(&empty[n % kStages]);
    }

  private:
    // Of a place when it is used for the (n / kStages)-th time.
    PLIMSOLL_DEVICE static unsigned parity(int n) { return static_cast<unsigned>(n / kStages) & 1; }
};

// A block's own tiles, which stay while a piece of work is done and are given back by one arrival of each of kGroups
// warpgroups, and what passes in stages.
template <int kGroups, int kStages, int kRings>
struct BlockBarriers {
    Ring<1> own;
    Ring<kStages> passing[kRings];

    PLIMSOLL_DEVICE void make() {
        own.make(kGroups);
        for (int i = 0; i < kRings; ++i) passing[i].make(kGroups * kGroupWarps);
        device::mbarrier_init_fence();
    }
};

// What a kernel derives from. Arguments: the kernel's, with its TileSchedule `schedule`; kTensorBytes: of its tiles.
template <class Arguments, class BarriersOfKernel, int kTensorBytes>
struct Block90 {
    using Barriers = BarriersOfKernel;
    static constexpr int kSharedBytes = kTensorBytes + static_cast<int>(sizeof(Barriers));
    static_assert(kSharedBytes <= kSharedBytes90);

    const Arguments& a;
    uint8_t* shared;

    PLIMSOLL_DEVICE Barriers& barriers() const { return *reinterpret_cast<Barriers*>(shared + kTensorBytes); }
    PLIMSOLL_DEVICE void make_barriers() const { barriers().make(); }

    // Calls f(piece, how many were before it) for every piece of this block's work.
    template <class F>
    PLIMSOLL_DEVICE void for_each_piece(F&& f) const {
        int item = 0;
        for (int index = blockIdx.x; index < a.schedule.count(); index += gridDim.x, ++item)
            f(a.schedule.work(index), item);
    }
};

// A block's life: one thread of the first warpgroup loads, the other warpgroups compute.
template <class Kernel>
PLIMSOLL_DEVICE void run_warpgroups(const Kernel& kernel) {
    if (threadIdx.x == 0) kernel.make_barriers();
    __syncthreads();
    const int group = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);  // known to be uniform
    // 3 x 128 threads begin with 168 registers each: 24 + 2 x 240 = 3 x 168.
    if (group == 0) {
        device::decrease_registers<24>();
        if (threadIdx.x < 32 && device::elect_one()) kernel.load();
    } else {
        device::increase_registers<240>();
        kernel.compute(group - 1);
    }
}

}  // namespace plimsoll::cuda
