// Third step of planning: exact loads.
#pragma once

#include "dist/cad/planning.h"

namespace plimsoll {

// Moves blocks of rows at the edges of tasks until no rank has more pairs than its limit, the fewest bytes per pair
// first; where no block fits into anybody's room, swaps one for a smaller one. What cannot be brought under the limit
// ends within one block (CaProblem::largest_block) of the rank's share. Tasks stay sorted and cover the same rows.
void repair(const CaProblem& problem, std::span<const int64_t> limits, std::vector<CaTask>& tasks);

}  // namespace plimsoll
