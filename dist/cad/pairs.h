// Query-key pairs that a mask lets through, in closed form, and the keys that an interval of queries sees.
#pragma once

#include <algorithm>

#include "dist/cad/plan.h"

namespace plimsoll {

// Counts pairs of one document's queries; the same mask as kernels/attention/mask.h. 64-bit: a document of 2^31 rows
// has 2^61 pairs.
class PairCount {
  public:
    explicit PairCount(const CaOptions& options) : window_(options.window), pinned_(options.pinned) {}

    // Of queries [0, end).
    int64_t before(int64_t end) const {
        if (window_ == 0 || end <= window_) return triangle(end);
        const int64_t full = end - window_;  // queries that see a whole window, and up to `pinned` keys before it
        const int64_t growing = std::min(full, pinned_);
        return triangle(window_) + full * window_ + triangle(growing) + (full - growing) * pinned_;
    }
    int64_t between(int64_t begin, int64_t end) const { return before(end) - before(begin); }
    // The last begin for which [begin, end) has at least `pairs`; 0 where all of [0, end) has not.
    int64_t begin_of(int64_t end, int64_t pairs) const;
    // The first end for which [begin, end) has at least `pairs`.
    int64_t end_of(int64_t begin, int64_t pairs) const;

  private:
    static int64_t triangle(int64_t n) { return n * (n + 1) / 2; }
    // The last position with at most `pairs` before it.
    int64_t position_of(int64_t pairs) const;

    int64_t window_, pinned_;
};

// Keys [0, prefix) and [begin, end) of a document.
struct KeySpan {
    int64_t prefix = 0;
    int64_t begin = 0, end = 0;
    int64_t rows() const { return prefix + end - begin; }
};
// What queries [begin, end) read: all before them, or with a window the keys from begin - window + 1 on, rounded down
// to a block because kernels read whole tiles, and the pinned prefix rounded up. One interval where the two would meet.
KeySpan keys_seen(int64_t begin, int64_t end, const CaOptions& options);

}  // namespace plimsoll
