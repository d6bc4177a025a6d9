// Layers of a network cut into pipeline stages.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll {

// Any unit, at least 0.
struct LayerCosts {
    double embedding = 0;        // goes with the first part
    std::vector<double> blocks;  // in order
    double head = 0;             // goes with the last part
};

// Blocks [begin, end).
struct BlockRange {
    int64_t begin = 0;
    int64_t end = 0;
    bool operator==(const BlockRange&) const = default;
};

// `parts` neighbouring ranges of at least one block each whose largest cost is as small as possible; among those, with
// the smallest sum of squared costs, then with the shortest parts first. Exact, by dynamic programming in
// O(parts blocks^2). Deterministic.
// Throws Error (78) for parts outside 1 .. blocks and costs that are negative or not finite.
std::vector<BlockRange> balance(const LayerCosts& costs, int parts);

// What a range costs, with the embedding or the head if it is first or last.
double cost_of(const LayerCosts& costs, BlockRange range);

}  // namespace plimsoll
