// What a mask says of queries, keys, rows and tiles, each against the definition pair by pair.
#include "kernels/attention/mask.h"

#include "support/attention_oracle.h"

namespace plimsoll {
namespace {

std::vector<AttentionCase> cases() {
    std::vector<AttentionCase> all;
    for (const MaskPattern pattern :
         {MaskPattern::kCausal, MaskPattern::kDilated, MaskPattern::kStrided, MaskPattern::kBlocked})
        for (const int64_t window : {0, 1, 2, 5, 8, 40})
            for (const int64_t dilation : {1, 2, 7})
                for (const int64_t pinned : {0, 1, 3, 12, 60})
                    for (const int64_t prefix : {0, 1, 4, 13, 60}) {
                        const bool wants_window = pattern == MaskPattern::kStrided || pattern == MaskPattern::kBlocked;
                        if ((wants_window && window == 0) || (pattern != MaskPattern::kDilated && dilation > 1))
                            continue;
                        AttentionCase c{.window = window, .pinned = pinned};
                        c.pattern = pattern, c.dilation = dilation, c.prefix = prefix;
                        all.push_back(c);
                    }
    return all;
}

class MaskOf : public testing::TestWithParam<AttentionCase> {};

constexpr int kTokens = 45;

template <class Int>
void expect_definition(const AttentionCase& c) {
    const MaskRule<Int> mask(c.spec());
    for (const Int n : {Int{1}, Int{3}, Int{kTokens}})
        for (Int i = 0; i < n; ++i) {
            const KeysOfQuery<Int> keys = mask.keys_of(i, n);
            ASSERT_TRUE(keys.pinned <= keys.dense && keys.sparse <= keys.dense && keys.end <= n);
            Int count = 0;
            for (Int j = 0; j < n; ++j) {
                const bool visible = oracle_visible(c, i, j);
                count += visible;
                ASSERT_EQ(mask.visible(i, j), visible) << i << " " << j;
                const bool of_query = j < keys.end && (j < keys.pinned || j >= keys.dense ||
                                                       (j >= keys.sparse && (i - j) % mask.step == 0));
                ASSERT_EQ(of_query, visible) << i << " " << j << " of " << n;
                const QueriesOfKey<Int> queries = mask.queries_of(j, n);
                ASSERT_LE(queries.end, n);
                const bool of_key =
                    i >= queries.begin && (i < queries.dense || (i < queries.end && (i - j) % mask.step == 0));
                ASSERT_EQ(of_key, visible) << i << " " << j << " of " << n;
                if (visible) ASSERT_LT(j, mask.keys_end(i, i + 1));
            }
            ASSERT_EQ(mask.visible_keys(i, n), count) << i << " of " << n;
        }
}
TEST_P(MaskOf, RowsAndColumnsAreTheDefinition) {
    expect_definition<int64_t>(GetParam());
    expect_definition<int32_t>(GetParam());
}

// Sound, and tight: of tiles with blocks, skips() may say no where a query's block begins within the tile of keys.
TEST_P(MaskOf, TilesAreSkippedOrPassedOnlyWhereAllPairsAgree) {
    const AttentionCase& c = GetParam();
    const Mask mask(c.spec());
    constexpr int64_t kTile = 6;
    for (int64_t i0 = 0; i0 < kTokens; i0 += kTile - 1)
        for (int64_t j0 = 0; j0 < kTokens; j0 += kTile) {
            int64_t seen = 0;
            for (int64_t i = i0; i < i0 + kTile; ++i)
                for (int64_t j = j0; j < j0 + kTile; ++j) seen += oracle_visible(c, i, j);
            const bool skips = mask.skips(i0, i0 + kTile, j0, j0 + kTile);
            if (c.pattern == MaskPattern::kBlocked)
                ASSERT_TRUE(!skips || seen == 0) << i0 << " " << j0;
            else
                ASSERT_EQ(skips, seen == 0) << i0 << " " << j0;
            if (mask.passes(i0, i0 + kTile, j0, j0 + kTile)) ASSERT_EQ(seen, kTile * kTile) << i0 << " " << j0;
        }
}

INSTANTIATE_TEST_SUITE_P(Cases, MaskOf, testing::ValuesIn(cases()));

TEST(MaskOf, SkipsAndPassesMostTilesOfEveryPattern) {
    const auto tiles = [](const AttentionSpec& spec) {
        const Mask mask(spec);
        std::pair<int, int> count{0, 0};
        for (int64_t i0 = 0; i0 < 1024; i0 += 64)
            for (int64_t j0 = 0; j0 < 1024; j0 += 64) {
                count.first += !mask.skips(i0, i0 + 64, j0, j0 + 64);
                count.second += mask.passes(i0, i0 + 64, j0, j0 + 64);
            }
        return count;
    };
    using Counts = std::pair<int, int>;
    EXPECT_EQ(tiles({}), Counts(16 * 17 / 2, 16 * 15 / 2));
    EXPECT_EQ(tiles({.window = 65}), Counts(16 + 15, 0));
    EXPECT_EQ(tiles({.pattern = MaskPattern::kBlocked, .window = 128}), Counts(16 + 8, 8));
    EXPECT_EQ(tiles({.pattern = MaskPattern::kDilated, .dilation = 256}),
              Counts(16 + 12 + 8 + 4, 0));
    EXPECT_EQ(tiles({.prefix = 128}), Counts(16 * 17 / 2 + 1, 16 * 15 / 2 + 3));
}

TEST(MaskOf, HugeNumbersAreAsGoodAsEndless) {
    constexpr int64_t kHuge = int64_t{1} << 40;
    for (const int64_t i : {0, 1, 1000, 1 << 23}) {
        EXPECT_EQ(Mask({.window = kHuge}).visible_keys(i), i + 1);
        EXPECT_EQ(MaskRule<int32_t>({.window = kHuge, .pinned = kHuge}).visible_keys(static_cast<int32_t>(i)), i + 1);
        EXPECT_EQ(Mask({.pattern = MaskPattern::kDilated, .window = kHuge, .dilation = 1 << 20}).visible_keys(i),
                  i / (1 << 20) + 1);
        EXPECT_EQ(MaskRule<int32_t>({.pattern = MaskPattern::kDilated, .window = kHuge, .dilation = 1 << 20})
                      .visible_keys(static_cast<int32_t>(i)),
                  i / (1 << 20) + 1);
        EXPECT_EQ(Mask({.pattern = MaskPattern::kBlocked, .window = kHuge}).visible_keys(i), i + 1);
        EXPECT_EQ(Mask({.pattern = MaskPattern::kStrided, .window = kHuge}).visible_keys(i), i + 1);
        EXPECT_EQ(Mask({.prefix = kHuge}).visible_keys(i, i + 5), i + 5);
        EXPECT_FALSE(Mask({.window = kHuge}).skips(i, i + 1, 0, 1));
    }
}

}  // namespace
}  // namespace plimsoll
