// What leaves a segment: one interval of it, the pieces for its servers one below the other.
#pragma once

#include "dist/cad/planning.h"

namespace plimsoll {

// A segment shorter than this many blocks gives what is at its end, cut at block edges as soon as it is decided:
// rounding its few pieces later would shift too large a part of them.
inline constexpr int64_t kSmallBlocks = 8;
bool is_small(const CaSegment& segment, const CaOptions& options);

// Pieces of a longer segment from the top down. The largest is on top: rows there have the most pairs, and what is
// below needs fewer keys.
class PieceStack {
  public:
    struct Piece {
        int server;
        int64_t pairs;
    };
    // Joins it with the server's piece, if there is one.
    void add(int server, int64_t pairs);
    bool empty() const { return pieces_.empty(); }
    std::span<const Piece> pieces() const { return pieces_; }

    // Where the interval ends at the fewest bytes, searched to `precision` rows. Fewer keys the lower it lies, fewer
    // queries the higher: a minimum between, or at the segment's end.
    int64_t best_end(const CaProblem& problem, const HeldKeys& held, int64_t segment, int64_t precision) const;
    double bytes_at(const CaProblem& problem, const HeldKeys& held, int64_t segment, int64_t end) const;

  private:
    std::vector<Piece> pieces_;
};

}  // namespace plimsoll
