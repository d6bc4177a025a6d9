// Second step of planning: which rows the pairs that move are.
#pragma once

#include "dist/cad/planning.h"

namespace plimsoll {

// Cuts segments into tasks, at multiples of the block: by segment, then position, every row once. What leaves a segment
// is one interval of it (PieceStack), placed where it costs the fewest bytes; a small segment gives what is at its end,
// in the order of the transfers.
std::vector<CaTask> lay_out(const CaProblem& problem, const HeldKeys& held, std::span<const int64_t> limits,
                            std::span<const CaTransfer> transfers);

// Joins neighbouring tasks of one server; sorts by segment, then position.
void join_tasks(std::vector<CaTask>& tasks);

}  // namespace plimsoll
