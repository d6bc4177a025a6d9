// How attention's forward on sm_90a divides its work: integers, for the launcher, the kernel and the tests.
#pragma once

#include <cstdint>

namespace plimsoll::cuda {

// Shared memory that a block may have (CUDA programming guide, compute capability 9.0).
inline constexpr int kSharedBytes90 = 227 << 10;

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

// Blocks stay, and take every `blocks`-th piece of work. A piece is a tile of queries of one head; the heads of a tile
// follow one another, so that those that share keys read them at the same time, and tiles come last first, since those
// see most keys.
struct ForwardWork {
    int tile, head;
};
constexpr ForwardWork forward_work(int index, int tiles, int heads) {
    return {tiles - 1 - index / heads, index % heads};
}

}  // namespace plimsoll::cuda
