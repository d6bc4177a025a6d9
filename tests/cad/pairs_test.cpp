#include "dist/cad/pairs.h"

#include <gtest/gtest.h>

#include "kernels/attention/mask.h"
#include "support/cad_cases.h"

namespace plimsoll {
namespace {

TEST(CadPairs, CountsAndPositionsAreThoseOfTheMask) {
    for (const auto& [window, pinned] :
         {std::pair<int64_t, int64_t>{0, 0}, {1, 0}, {7, 0}, {7, 3}, {16, 40}, {50, 1}}) {
        const CaOptions options{.window = window, .pinned = pinned};
        const Mask mask(AttentionSpec{.window = window, .pinned = pinned});
        const PairCount pairs(options);
        std::vector<int64_t> before{0};
        for (int64_t i = 0; i < 150; ++i) before.push_back(before.back() + mask.visible_keys(i));
        for (int64_t begin = 0; begin <= 150; ++begin)
            for (int64_t end = begin; end <= 150; ++end) {
                const int64_t expected = before[static_cast<size_t>(end)] - before[static_cast<size_t>(begin)];
                ASSERT_EQ(pairs.between(begin, end), expected) << window << " " << pinned << " " << begin << " " << end;
                ASSERT_EQ(pairs_of(begin, end, options), expected);
                if (begin == end) continue;
                ASSERT_EQ(pairs.begin_of(end, expected), begin) << window << " " << pinned << " " << end;
                ASSERT_EQ(pairs.end_of(begin, expected), end) << window << " " << pinned << " " << begin;
                ASSERT_EQ(pairs.begin_of(end, expected + 1), std::max<int64_t>(0, begin - 1));
                ASSERT_EQ(pairs.end_of(begin, expected + 1), end + 1);
            }
    }
}

TEST(CadPairs, LargePositionsAreExact) {
    CaRandom random(1);
    for (const int64_t window : {int64_t{0}, int64_t{4096}}) {
        const PairCount pairs(CaOptions{.window = window, .pinned = window / 4});
        for (int round = 0; round < 100'000; ++round) {
            const int64_t end = random.within(1, int64_t{1} << random.within(1, 31));
            const int64_t begin = random.within(0, end - 1);
            ASSERT_EQ(pairs.begin_of(end, pairs.between(begin, end)), begin) << end;
            ASSERT_EQ(pairs.end_of(begin, pairs.between(begin, end)), end) << begin;
        }
    }
}

TEST(CadPairs, KeysSeenCoverTheMaskFromWholeBlocks) {
    for (const auto& [window, pinned] : {std::pair<int64_t, int64_t>{0, 0}, {1, 0}, {20, 0}, {20, 5}, {20, 17}}) {
        const CaOptions options{.block = 8, .window = window, .pinned = pinned};
        const Mask mask(AttentionSpec{.window = window, .pinned = pinned});
        for (int64_t begin = 0; begin < 100; ++begin)
            for (int64_t end = begin + 1; end <= 100; ++end) {
                const KeySpan keys = keys_seen(begin, end, options);
                ASSERT_EQ(keys.begin % 8, 0);
                ASSERT_EQ(keys.prefix % 8, 0);
                ASSERT_LE(keys.prefix, keys.begin);
                ASSERT_EQ(keys.end, end);
                ASSERT_LT(keys.begin, keys.end);
                for (int64_t j = 0; j < 100; ++j) {
                    bool seen = false;
                    for (int64_t i = begin; i < end; ++i) seen = seen || mask.visible(i, j);
                    const bool held = j < keys.prefix || (j >= keys.begin && j < keys.end);
                    ASSERT_TRUE(held || !seen) << begin << " " << end << " " << j;
                }
                // No more than a block on either side.
                if (window > 0 && begin >= window + 8 + pinned + 8)
                    ASSERT_LT(keys.rows(), end - begin + window + pinned + 16);
            }
    }
}

}  // namespace
}  // namespace plimsoll
