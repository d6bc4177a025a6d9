#include "dist/pipeline/balance.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

struct Cuts {
    double value;
    std::vector<BlockRange> ranges;
};

// Makes `part_value(range)` of all parts, joined by `join` (max or +), as small as possible.
template <class PartValue, class Join>
Cuts best_cuts(int64_t blocks, int64_t parts, const PartValue& part_value, const Join& join) {
    const auto index = [&](int64_t part, int64_t end) { return static_cast<size_t>(part * (blocks + 1) + end); };
    std::vector<double> value(index(parts, blocks) + 1, kNever);  // of the first `part` parts over blocks [0, end)
    std::vector<int64_t> begin_of(value.size(), -1);
    value[index(0, 0)] = 0;
    for (int64_t part = 1; part <= parts; ++part)
        for (int64_t end = part; end <= blocks - (parts - part); ++end)
            for (int64_t begin = part - 1; begin < end; ++begin) {
                const double candidate = join(value[index(part - 1, begin)], part_value({begin, end}));
                if (candidate < value[index(part, end)])
                    value[index(part, end)] = candidate, begin_of[index(part, end)] = begin;
            }
    Cuts cuts{value[index(parts, blocks)], {}};
    for (int64_t part = parts, end = blocks; part > 0; --part) {
        const int64_t begin = begin_of[index(part, end)];
        cuts.ranges.push_back({begin, end});
        end = begin;
    }
    std::ranges::reverse(cuts.ranges);
    return cuts;
}

}  // namespace

double cost_of(const LayerCosts& costs, BlockRange range) {
    double sum = range.begin == 0 ? costs.embedding : 0;
    for (int64_t i = range.begin; i < range.end; ++i) sum += costs.blocks[static_cast<size_t>(i)];
    return range.end == static_cast<int64_t>(costs.blocks.size()) ? sum + costs.head : sum;
}

std::vector<BlockRange> balance(const LayerCosts& costs, int parts) {
    const auto blocks = static_cast<int64_t>(costs.blocks.size());
    if (parts < 1 || parts > blocks)
        fail_input("{} pipeline parts of {} blocks: must lie in 1 .. {}, a part has at least one block", parts, blocks,
                   blocks);
    std::vector<double> all = costs.blocks;
    all.push_back(costs.embedding), all.push_back(costs.head);
    double total = 0;
    for (const double cost : all) {
        total += cost;
        if (cost < 0 || !std::isfinite(total))
            fail_input("cost {} of a layer: must be at least 0, the sum finite", cost);
    }

    const auto table_index = [&](int64_t begin, int64_t end) {
        return static_cast<size_t>(begin * (blocks + 1) + end);
    };
    std::vector<double> table(table_index(blocks, blocks) + 1);
    for (int64_t begin = 0; begin < blocks; ++begin)
        for (int64_t end = begin + 1; end <= blocks; ++end)
            table[table_index(begin, end)] = cost_of(costs, {begin, end});
    const auto cost = [&](BlockRange range) { return table[table_index(range.begin, range.end)]; };

    const auto larger = [](double a, double b) { return std::max(a, b); };
    const double largest = best_cuts(blocks, parts, cost, larger).value;
    const auto square = [&](BlockRange range) {
        if (cost(range) > largest) return kNever;
        return largest == 0 ? 0 : std::pow(cost(range) / largest, 2);
    };
    return best_cuts(blocks, parts, square, std::plus<>()).ranges;
}

}  // namespace plimsoll
