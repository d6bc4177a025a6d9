#include "dist/pipeline/balance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "kernels/error.h"

namespace plimsoll {
namespace {

double largest(const LayerCosts& costs, const std::vector<BlockRange>& ranges) {
    double worst = 0;
    for (const BlockRange& range : ranges) worst = std::max(worst, cost_of(costs, range));
    return worst;
}
double squares(const LayerCosts& costs, const std::vector<BlockRange>& ranges) {
    double sum = 0;
    for (const BlockRange& range : ranges) sum += cost_of(costs, range) * cost_of(costs, range);
    return sum;
}

// Every way to cut blocks from `begin` on into `parts`.
void every_cut(int64_t begin, int64_t blocks, int parts, std::vector<BlockRange>& cut,
               std::vector<std::vector<BlockRange>>& all) {
    if (parts == 0) {
        if (begin == blocks) all.push_back(cut);
        return;
    }
    for (int64_t end = begin + 1; end <= blocks - (parts - 1); ++end) {
        cut.push_back({begin, end});
        every_cut(end, blocks, parts - 1, cut, all);
        cut.pop_back();
    }
}

void expect_partition(const std::vector<BlockRange>& ranges, int64_t blocks, int parts) {
    ASSERT_EQ(ranges.size(), static_cast<size_t>(parts));
    int64_t at = 0;
    for (const BlockRange& range : ranges) {
        EXPECT_EQ(range.begin, at);
        EXPECT_LT(range.begin, range.end);
        at = range.end;
    }
    EXPECT_EQ(at, blocks);
}

TEST(Balance, IsTheBestOfAllCuts) {
    std::mt19937_64 random(1);
    for (int round = 0; round < 2000; ++round) {
        // Whole numbers: sums are exact, so that "equal" is.
        const auto number = [&](int64_t limit) { return static_cast<double>(random() % static_cast<uint64_t>(limit)); };
        LayerCosts costs{.embedding = number(12), .blocks = {}, .head = number(30)};
        const auto blocks = 1 + static_cast<int64_t>(random() % 9);
        const int parts = 1 + static_cast<int>(random() % static_cast<uint64_t>(blocks));
        for (int64_t i = 0; i < blocks; ++i) costs.blocks.push_back(number(round % 2 ? 3 : 20));
        std::vector<std::vector<BlockRange>> all;
        std::vector<BlockRange> cut;
        every_cut(0, blocks, parts, cut, all);
        double best = std::numeric_limits<double>::infinity(), least_squares = best;
        for (const auto& ranges : all) best = std::min(best, largest(costs, ranges));
        for (const auto& ranges : all)
            if (largest(costs, ranges) == best) least_squares = std::min(least_squares, squares(costs, ranges));

        const std::vector<BlockRange> got = balance(costs, parts);
        expect_partition(got, blocks, parts);
        ASSERT_EQ(largest(costs, got), best) << "round " << round;
        // Squares are compared as shares of the largest cost: 1e-12 is their rounding.
        ASSERT_NEAR(squares(costs, got), least_squares, 1e-12 * least_squares) << "round " << round;
    }
}

TEST(Balance, EmbeddingAndHeadCount) {
    const std::vector<double> blocks(8, 1);
    const std::vector<BlockRange> even{{0, 2}, {2, 4}, {4, 6}, {6, 8}}, light_ends{{0, 1}, {1, 4}, {4, 7}, {7, 8}};
    EXPECT_EQ(balance({.blocks = blocks}, 4), even);
    EXPECT_EQ(balance({.embedding = 2, .blocks = blocks, .head = 2}, 4), light_ends);
    EXPECT_EQ(balance({.embedding = 5, .blocks = {1}, .head = 5}, 1), (std::vector<BlockRange>{{0, 1}}));
}

TEST(Balance, LargeNetworksAndCosts) {
    std::mt19937_64 random(2);
    for (const double unit : {1e-300, 1.0, 1e300}) {
        LayerCosts costs{.embedding = 3 * unit, .blocks = {}, .head = 7 * unit};
        for (int i = 0; i < 160; ++i) costs.blocks.push_back(unit * (1 + static_cast<double>(random() % 1000) / 1000));
        for (const int parts : {1, 16, 64, 160}) {
            const std::vector<BlockRange> got = balance(costs, parts);
            expect_partition(got, 160, parts);
            double total = costs.embedding + costs.head;
            for (const double cost : costs.blocks) total += cost;
            // A greedy filling up to mean + one block never needs more parts than there are; the ends weigh more.
            EXPECT_LE(largest(costs, got), total / parts + 10 * unit);
        }
    }
    expect_partition(balance({.blocks = std::vector<double>(5, 0)}, 3), 5, 3);
}

TEST(Balance, BadInputIsRefused) {
    const LayerCosts three{.blocks = {1, 1, 1}};
    for (const int parts : {-1, 0, 4}) EXPECT_THROW(balance(three, parts), Error) << parts;
    EXPECT_THROW(balance({}, 1), Error);
    const double inf = std::numeric_limits<double>::infinity();
    for (const double bad : {-1.0, inf, std::nan(""), std::numeric_limits<double>::max()}) {
        EXPECT_THROW(balance({.blocks = {1, bad, bad}}, 2), Error) << bad;
        if (!(bad > 1)) EXPECT_THROW(balance({.blocks = {1, 1}, .head = bad}, 2), Error) << bad;
    }
}

}  // namespace
}  // namespace plimsoll
