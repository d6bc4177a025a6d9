// How the blocks of a kernel of attention on sm_90a divide their work: integers, for launchers, kernels and tests.
#pragma once

#include <cstdint>

namespace plimsoll::cuda {

// Shared memory that a block may have (CUDA programming guide, compute capability 9.0).
inline constexpr int kSharedBytes90 = 227 << 10;

// Blocks stay, and take every `blocks`-th piece of work: a tile of rows of one head. Heads are taken in sections whose
// rows on the other side lie in the L2 cache together, as FlashAttention-3 does. In a section the tiles with most work
// come first, and the heads of a tile follow one another, so that those that share keys read them at the same time.
struct TileWork {
    int tile, head;
};
struct TileSchedule {
    int tiles, heads, section;  // heads of a section
    bool last_first;            // the last tile has most work, as one of queries has; else the first

    constexpr int count() const { return tiles * heads; }
    constexpr TileWork work(int index) const {
        const int begin = index / (section * tiles) * section, left = heads - begin;
        const int width = section < left ? section : left, at = index - begin * tiles;
        return {last_first ? tiles - 1 - at / width : at / width, begin + at % width};
    }
};

// What of the L2 cache (50 MB on H100 and H200) the rows that all tiles of a section read may fill.
inline constexpr int64_t kCachedBytes = 32 << 20;

// Heads in groups of `group`, which stay together and read `bytes` in all.
constexpr int heads_of_section(int64_t bytes, int heads, int group) {
    int section = group;
    while (2 * (section / group) * bytes <= kCachedBytes && section < heads) section *= 2;
    return section < heads ? section : heads;
}

// Tiles of `tile` queries each, over `rows` keys and values. group: query heads of a key head.
constexpr TileSchedule query_schedule(int64_t rows, int64_t HS, int heads, int group, int tile) {
    return {static_cast<int>((rows + tile - 1) / tile), heads, heads_of_section(2 * 2 * rows * HS, heads, group), true};
}
// Tiles of `tile` keys each, over `rows` queries and output gradients of each query head of a key head.
constexpr TileSchedule key_schedule(int64_t rows, int64_t HS, int key_heads, int group, int tile) {
    return {static_cast<int>((rows + tile - 1) / tile), key_heads,
            heads_of_section(2 * 2 * rows * HS * group, key_heads, 1), false};
}

}  // namespace plimsoll::cuda
