// The tiles of attention's forward on sm_90a.
#pragma once

#include "kernels/cuda/sm90/schedule.h"

namespace plimsoll::cuda {

// A block of two warpgroups of 64 queries each, that share tiles of `keys` keys and values in `stages` stages. Fits
// kSharedBytes90 with its barriers, and its sums fit 240 registers per thread: scores keys / 2, their bf16 keys / 4,
// output HS / 2.
struct ForwardTile {
    int queries = 0, keys = 0, stages = 0;  // 0: there is no kernel for this head size
    bool takes_turns = false;               // one warpgroup multiplies while the other weighs ("ping-pong")

    constexpr bool exists() const { return queries > 0; }
    constexpr int tensor_bytes(int HS) const { return 2 * HS * (queries + 2 * stages * keys); }
};

constexpr ForwardTile forward_tile(int64_t HS) {
    if (HS == 64 || HS == 96 || HS == 128) return {128, 128, 2, true};
    if (HS == 256) return {128, 80, 2, false};
    return {};
}

}  // namespace plimsoll::cuda
