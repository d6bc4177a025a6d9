// Ten thousand random jobs: every property of a plan.
#include <gtest/gtest.h>

#include <chrono>
#include <numeric>

#include "dist/cad/key_pieces.h"
#include "dist/cad/plan.h"
#include "kernels/error.h"
#include "support/cad_cases.h"

namespace plimsoll {
namespace {

// Counts what the demands of a plan are measured by.
struct Tally {
    int plans = 0, moved = 0, granular = 0, over = 0;
    double worst = 0, slowest_ms = 0;
};

void expect_every_property(const CaCase& c, Tally& tally) {
    CaOptions options = llama_8b(c.servers);
    options.min_gain = 0;
    const auto start = std::chrono::steady_clock::now();
    const CaPlan plan = plan_core_attention(c.segments, options);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    tally.slowest_ms = std::max(tally.slowest_ms, time.count());
    ASSERT_EQ(problem_with(plan, c.segments, options), "");
    const auto before = loads_of(plan_nothing(c.segments), c.segments, options);
    const auto loads = loads_of(plan, c.segments, options);
    int64_t total = 0, own = 0, longest = 0;
    for (const CaSegment& s : c.segments) {
        total += s.end * (s.end + 1) / 2 - s.begin * (s.begin + 1) / 2;
        longest = std::max(longest, s.end);
    }
    for (const int64_t load : loads) own += load;
    ASSERT_EQ(own, total);
    const int64_t most = *std::ranges::max_element(loads);
    ASSERT_LE(most, *std::ranges::max_element(before));

    const double mean = static_cast<double>(total) / c.servers;
    const int64_t block = pairs_of(std::max<int64_t>(0, longest - options.block), longest, options);
    ++tally.plans, tally.moved += plan.moves, tally.granular += plan.granular;
    ASSERT_EQ(plan.granular, static_cast<double>(block) > std::floor(options.tolerance * mean));
    if (static_cast<double>(most) > (1 + options.tolerance) * mean) {
        ASSERT_TRUE(plan.granular);
        ASSERT_LE(most, mean + static_cast<double>(block));
        ++tally.over;
        tally.worst = std::max(tally.worst, static_cast<double>(most) / mean);
    }
    if (tally.plans % 10 != 0) return;

    EXPECT_EQ(plan_core_attention(c.segments, options).tasks, plan.tasks);
    const CaKeys keys = keys_of(plan, c.segments, options);
    const CaBytes relayed = bytes_of(plan, keys, c.segments, options);
    options.two_hop = false;
    const CaBytes direct = bytes_of(plan, keys_of(plan, c.segments, options), c.segments, options);
    ASSERT_EQ(relayed.total(), std::accumulate(relayed.received.begin(), relayed.received.end(), int64_t{0}));
    ASSERT_EQ(relayed.total(), direct.total());
    ASSERT_EQ(relayed.received, direct.received);  // forward: with two hops keys come once, too
}

void run(RandomKind kind, int plans, int64_t most_tokens) {
    CaRandom random(9 + static_cast<uint64_t>(kind));
    Tally tally;
    for (int i = 0; i < plans; ++i) {
        const CaCase c = random_case(kind, most_tokens, random);
        ASSERT_NO_FATAL_FAILURE(expect_every_property(c, tally))
            << c.name << ", plan " << i << ", " << c.servers << " ranks, " << c.segments.size() << " segments";
    }
    fmt::print("{} plans, {} move, {} granular, {} above the tolerance (at most {:.3f}), slowest {:.1f} ms\n",
               tally.plans, tally.moved, tally.granular, tally.over, tally.worst, tally.slowest_ms);
    EXPECT_LE(tally.over, plans / 100);
}

TEST(CadRandomPlans, TinyDocuments) {
    run(RandomKind::kTiny, 1700, 60000);
}
// Up to 55,000 documents of up to 300 rows, in half of the jobs a tenth of them on one rank. A prototype that rounded
// their ends down to blocks (layout.cpp, nearest_edge) ended at up to 1.47 here.
TEST(CadRandomPlans, TensOfThousandsOfTinyDocuments) {
    run(RandomKind::kTiny, 300, 131000);
}
TEST(CadRandomPlans, LogUniformLengths) {
    run(RandomKind::kLogUniform, 2000, 131000);
}
TEST(CadRandomPlans, PretrainLengths) {
    run(RandomKind::kPretrain, 2000, 131000);
}
TEST(CadRandomPlans, ProLongLengths) {
    run(RandomKind::kProLong, 2000, 131000);
}
TEST(CadRandomPlans, FewGiantsAmongShortOnes) {
    run(RandomKind::kGiants, 2000, 131000);
}

}  // namespace
}  // namespace plimsoll
