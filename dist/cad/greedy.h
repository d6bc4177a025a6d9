// First step of planning: which rank computes how many pairs of which segment.
#pragma once

#include "dist/cad/planning.h"

namespace plimsoll {

// Whom the rank with the most room is served by.
enum class DonorOrder {
    kCheapest,      // the donor whose keys and queries cost it the fewest bytes per pair
    kLargestFirst,  // the donor with the largest surplus, so that few are divided among several servers
};

// Brings every rank to its target, in pairs, as far as segments can be divided. The rank with the most room is always
// served next. In the order in which it was decided; of small segments each transfer is a run of whole blocks that ends
// where the one before it begins. `held`: keys that ranks have because they keep rows behind them.
std::vector<CaTransfer> choose_transfers(const CaProblem& problem, const HeldKeys& held,
                                         std::span<const int64_t> targets, DonorOrder order);

// Keys that every rank which gives nothing away reads anyway.
HeldKeys keys_held_by_receivers(const CaProblem& problem, std::span<const int64_t> targets);

}  // namespace plimsoll
