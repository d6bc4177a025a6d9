// A small warp-specialised kernel as attention is one, right or broken in one way each: what the emulated Hopper must
// accept, and what it must catch.
#pragma once

#include <cstdint>

namespace plimsoll {

enum class HopperBug : int {
    kNone,
    kReleasesKeysEarly,        // before they are read, within the loop: benign, see hopper_test.cpp
    kReleasesFirstKeysEarly,   // the same before the loop
    kReleasesValuesEarly,      // before they are read
    kReleasesWhatLanesRead,    // by one lane, while others of its warp read the values by ordinary loads
    kReadsScoresEarly,         // before they are waited for
    kScalesSumsInFlight,       // the output, while a product is being added to it
    kRewritesOperandInFlight,  // the weights in registers, while a product reads them
    kNoWgmmaFence,             // weights are written to registers, and read by wgmma
    kExitsWithWgmma,           // never waits for the last product
    kWrongLeadingOffset,       // from box to box of an MN-major operand
    kWrongSwizzle,             // of a K-major operand: 64 bytes for 128
    kWrongProducerParity,      // waits for a stage that nobody can have used yet
    kWrongConsumerParity,      // takes a stage for full that is being filled
    kWaitsForOtherStage,       // uses one stage after waiting for the other
    kExpectsTooFewBytes,       // of a stage's copies
    kNoProxyFence,             // output written by threads, read by a bulk store
    kFenceAfterBarrier,        // of other threads, too late
    kNoBarrierBeforeStore,     // other threads' output is not waited for
    kReusesSourceOfStore,      // the next queries land where a store still reads
    kNoInitFence,              // mbarriers are made, and used by copies
    kTooManyRegisters,         // more than the block has
};

// out (items, 64, columns) bf16: for each item with queries q (items, 64, columns) the sum over tiles t of
// 2^-(tiles - 1 - t) bf16(q k_t^T) v_t, k and v (items, 64 tiles, columns) bf16. columns: 64 or 128.
void launch_chain(HopperBug bug, int columns, const uint16_t* q, const uint16_t* k, const uint16_t* v, uint16_t* out,
                  int items, int tiles);

}  // namespace plimsoll
