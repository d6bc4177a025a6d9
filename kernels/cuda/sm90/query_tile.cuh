// A tile of queries on sm_90a and the tiles of keys it sees, which the thread that loads and those that compute walk in
// the same order.
#pragma once

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/sm90/block.cuh"

namespace plimsoll::cuda {

// Tiles of kKeys keys: those from row `first` to `last` on that end behind `dense`, or begin before `pinned`.
template <int kKeys>
struct KeyTiles {
    int first, dense, pinned, last;

    PLIMSOLL_DEVICE bool hidden(int n0) const { return n0 + kKeys <= dense && n0 >= pinned; }
    // The tile before n0 with a key that is seen, or a negative number.
    PLIMSOLL_DEVICE int before(int n0) const {
        n0 -= kKeys;
        if (hidden(n0)) n0 -= ((n0 - pinned) / kKeys + 1) * kKeys;
        return n0 >= first ? n0 : -1;
    }
    // The one behind it, or a negative number.
    PLIMSOLL_DEVICE int after(int n0) const {
        n0 += kKeys;
        if (hidden(n0)) n0 += (dense - n0) / kKeys * kKeys;
        return n0 <= last ? n0 : -1;
    }
    PLIMSOLL_DEVICE int begin() const { return after(first - kKeys); }
};

// Queries m0 .. of one head, two warpgroups of 64 each.
struct QueriesOfBlock {
    int head, m0, last;        // the last row
    int first_of, first_last;  // where the documents of the first and the last query begin

    // A piece of work, of tiles of `count` queries.
    PLIMSOLL_DEVICE QueriesOfBlock(const TileWork& piece, int count, int32_t N, const int32_t* first)
        : head(piece.head),
          m0(piece.tile * count),
          last(m0 + count < N ? m0 + count - 1 : N - 1),
          first_of(first[m0]),
          first_last(first[last]) {}

    // The last query's document bounds pinned keys.
    template <int kKeys>
    PLIMSOLL_DEVICE KeyTiles<kKeys> keys(const DeviceMask& mask) const {
        return {first_of, mask.window > 0 ? m0 - mask.window + 1 : first_of,
                mask.pinned > 0 ? first_last + mask.pinned : 0, first_of + (last - first_of) / kKeys * kKeys};
    }
    PLIMSOLL_DEVICE int row(int group) const { return m0 + group * kGroupRows; }
    // Keys that all of a warpgroup's queries see.
    struct SeenByAll {
        int begin, end;

        // Whether some of the keys n0 .. n0 + count - 1 are hidden from some queries.
        PLIMSOLL_DEVICE bool cuts(int n0, int count) const { return n0 < begin || n0 + count > end; }
    };
    PLIMSOLL_DEVICE SeenByAll seen_by_all(const DeviceMask& mask, int group) const {
        const int row0 = row(group), window = mask.window > 0 ? row0 + kGroupRows - mask.window : 0;
        return {first_last > window ? first_last : window, row0 + 1};
    }
};

}  // namespace plimsoll::cuda
