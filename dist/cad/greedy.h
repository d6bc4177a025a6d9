// First step of planning: which rank computes how many pairs of which segment.
#pragma once

#include "dist/cad/planning.h"

namespace plimsoll {

// A segment shorter than this many blocks is cut at block edges right here: rounding its few pieces later would shift
// too large a part of them.
inline constexpr int64_t kSmallBlocks = 8;
bool is_small(const CaSegment& segment, const CaOptions& options);

// Brings every rank to its target, in pairs, as far as segments can be divided. The rank with the most room is served
// first, by the rank and segment whose keys and queries cost it the fewest bytes per pair. In the order in which it was
// decided; of small segments each transfer is a run of whole blocks that ends where the one before it begins.
std::vector<CaTransfer> choose_transfers(const CaProblem& problem, std::span<const int64_t> targets);

}  // namespace plimsoll
