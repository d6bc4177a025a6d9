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

// Blocks stay, and take every `blocks`-th piece of work: a tile of queries of one head. Heads are taken in sections
// whose keys and values lie in the L2 cache together, as FlashAttention-3 does. In a section tiles come last first,
// since those see most keys, and the heads of a tile follow one another, so that those that share keys read them at the
// same time.
struct ForwardWork {
    int tile, head;
};
struct ForwardSchedule {
    int tiles, heads, section;  // heads of a section

    constexpr int count() const { return tiles * heads; }
    constexpr ForwardWork work(int index) const {
        const int begin = index / (section * tiles) * section, left = heads - begin;
        const int width = section < left ? section : left, at = index - begin * tiles;
        return {tiles - 1 - at / width, begin + at % width};
    }
};

// What of the L2 cache (50 MB on H100 and H200) keys and values may fill.
inline constexpr int64_t kCachedBytes = 32 << 20;

// For `rows` keys. group: query heads of a key head, which stay together.
constexpr ForwardSchedule forward_schedule(int64_t rows, int64_t HS, int heads, int group) {
    const int64_t bytes = 2 * 2 * rows * HS;  // keys and values of a head
    int section = group;
    while (2 * (section / group) * bytes <= kCachedBytes && section < heads) section *= 2;
    const int queries = forward_tile(HS).queries;
    return {static_cast<int>((rows + queries - 1) / queries), heads, section < heads ? section : heads};
}

}  // namespace plimsoll::cuda
