// Small kernels, right or broken in one way each: what the emulator must accept, and what it must catch.
#pragma once

#include <cstdint>

namespace plimsoll {

enum class Bug : int {
    kNone,
    kNoBarrier,             // block_sum: partial sums are read before they are written
    kReadsPastTheEnd,       // block_sum: 8 elements more than there are
    kPlainSumAcrossBlocks,  // block_sum: += instead of an atomic
    kDivergentBarrier,      // block_sum: half of the block is at another __syncthreads
    kLanesMissing,          // block_sum: a full mask, but 7 lanes
    kWaitsForOneGroupLess,  // pipeline: cp.async.wait_group off by one
    kNoBarrierAfterLoad,    // pipeline: other threads' copies are not waited for
    kNoBarrierBeforeReuse,  // pipeline: the next copy overwrites what others still read
    kExitsWithCopies,       // pipeline: never waits for the last copy
    kShuffleAsFence,        // exchange: a shuffle instead of __syncwarp between write and read
    kWrongSharedIndex,      // exchange: one element past the shared array
    kUninitialised,         // exchange: reads an element nobody wrote
    kBarrierCountTooHigh,   // exchange: a named barrier that waits for more threads than come
    kLanesInDifferentOps,   // exchange: half of a warp in a shuffle, half in a ballot
};

// out[0] += sum of x[0..n), by `blocks` blocks of 256 threads.
void launch_block_sum(Bug bug, const float* x, float* out, int n, int blocks);
// out[t] = sum over tiles of x[tile][(t + 1) % 128], tiles of 128 floats through two stages of shared memory.
void launch_pipeline(Bug bug, const float* x, float* out, int tiles);
// out[t] = x[t ^ 1], through shared memory, 64 threads.
void launch_exchange(Bug bug, const float* x, float* out);
// c (16, 8) = a (16, 16) b (16, 8), row-major bf16 in and fp32 out, by one warp with ldmatrix and mma.
void launch_small_product(const uint16_t* a, const uint16_t* b, float* c);
// out[0] = the number of threads whose built-in variables are what they should be.
void launch_count_threads(int* out, unsigned grid_x, unsigned grid_y, unsigned block_x, unsigned block_y);
// One thread fails to raise a shared memory limit.
void launch_with_dynamic_shared(unsigned bytes, bool raise_limit);

}  // namespace plimsoll
