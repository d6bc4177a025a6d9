// The emulated Hopper itself: a right kernel runs clean under many schedules, and every planted bug is caught under
// each.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <string>
#include <vector>

#include "kernels/dtype.h"
#include "simt/detector.h"
#include "simt/hopper_bugs.h"
#include "simt/machine.h"
#include "support/simt_outcome.h"

namespace plimsoll {
namespace {

constexpr int kSchedules = 8, kTile = 64, kItems = 3, kTiles = 5;

float number(uint16_t bits) {
    return std::bit_cast<float>(uint32_t{bits} << 16);
}

// Small integers: every sum is exact in fp32, every weight in bf16.
std::vector<uint16_t> integers(int count, int step) {
    std::vector<uint16_t> values;
    for (int i = 0; i < count; ++i) values.push_back(bf16(static_cast<float>((i * step) % 7 % 3 - 1)).bits);
    return values;
}

struct Inputs {
    int columns;
    std::vector<uint16_t> q = integers(kItems * kTile * columns, 5),
                          k = integers(kTiles * kItems * kTile * columns, 11),
                          v = integers(kTiles * kItems * kTile * columns, 3);

    // What launch_chain() promises, by the definition.
    std::vector<uint16_t> expected() const {
        const auto C = static_cast<size_t>(columns);
        const size_t tile = kTile;
        std::vector<uint16_t> out;
        for (size_t item = 0; item < kItems; ++item)
            for (size_t i = 0; i < tile; ++i) {
                std::vector<double> row(C);
                for (size_t t = 0; t < kTiles; ++t) {
                    if (t > 0)
                        for (double& x : row) x /= 2;
                    for (size_t j = 0; j < tile; ++j) {
                        const size_t key = ((item * kTiles + t) * tile + j) * C;
                        double score = 0;
                        for (size_t c = 0; c < C; ++c)
                            score += static_cast<double>(number(q[(item * tile + i) * C + c])) * number(k[key + c]);
                        for (size_t c = 0; c < C; ++c) row[c] += score * number(v[key + c]);
                    }
                }
                for (const double x : row) out.push_back(bf16(static_cast<float>(x)).bits);
            }
        return out;
    }
};

Outcome<uint16_t> chain(HopperBug bug, int columns, uint64_t seed, bool detect = true) {
    const Inputs in{columns};
    const SimtBuffer<uint16_t> q(in.q), k(in.k), v(in.v);
    return run_simt<uint16_t>(seed, std::vector<uint16_t>(in.q.size(), 0xffff), [&](uint16_t* out) {
        simt::options().detect = detect;
        launch_chain(bug, columns, q.data(), k.data(), v.data(), out, kItems, kTiles);
    });
}

TEST(EmulatedHopper, RunsARightKernelCleanUnderEverySchedule) {
    for (const int columns : {64, 128}) {
        const std::vector<uint16_t> wanted = Inputs{columns}.expected();
        for (int seed = 1; seed <= 2 * kSchedules; ++seed) {
            const Outcome<uint16_t> outcome = chain(HopperBug::kNone, columns, static_cast<uint64_t>(seed));
            EXPECT_TRUE(outcome.error.empty() && outcome.reports.empty()) << outcome.to_string();
            EXPECT_EQ(outcome.out, wanted) << columns << " columns, seed " << seed;
        }
    }
}

// The producer asks for keys n + 2 only after values n + 1, whose stage is released when the products that read keys n
// have been waited for: one thread orders the copies. Before the loop there is no such order, see below.
TEST(EmulatedHopper, KeysReleasedBeforeTheyAreReadAreOrderedByTheValues) {
    const std::vector<uint16_t> wanted = Inputs{64}.expected();
    for (int seed = 1; seed <= 4 * kSchedules; ++seed) {
        const Outcome<uint16_t> outcome = chain(HopperBug::kReleasesKeysEarly, 64, static_cast<uint64_t>(seed));
        EXPECT_TRUE(outcome.error.empty() && outcome.reports.empty()) << outcome.to_string();
        EXPECT_EQ(outcome.out, wanted) << "seed " << seed;
    }
}

// A stride between boxes means nothing where there is one box: this bug needs wider heads to show.
TEST(EmulatedHopper, AWrongLeadingOffsetPassesWithOneBox) {
    EXPECT_EQ(chain(HopperBug::kWrongLeadingOffset, 64, 1).out, Inputs{64}.expected());
}

constexpr const char* kNumbers = "";  // nothing is said: the results are wrong

struct Planted {
    HopperBug bug;
    std::vector<const char*> found;  // what the report or the error says, one of them
};

// The detector is not what finds these: the numbers must show them too.
TEST(EmulatedHopper, RegistersThatAreNotWaitedForGiveWrongNumbers) {
    const std::vector<uint16_t> wanted = Inputs{128}.expected();
    for (const HopperBug bug : {HopperBug::kReadsScoresEarly, HopperBug::kRewritesOperandInFlight})
        EXPECT_NE(chain(bug, 128, 1, false).out, wanted) << static_cast<int>(bug);
    EXPECT_TRUE(chain(HopperBug::kScalesSumsInFlight, 128, 1, false).mentions("sums were written while a wgmma"));
}

class PlantedHopperBug : public testing::TestWithParam<Planted> {};

TEST_P(PlantedHopperBug, IsCaughtUnderEverySchedule) {
    const auto& [bug, found] = GetParam();
    const std::vector<uint16_t> wanted = Inputs{128}.expected();
    for (int seed = 1; seed <= kSchedules; ++seed) {
        const Outcome<uint16_t> outcome = chain(bug, 128, static_cast<uint64_t>(seed));
        const bool said = std::any_of(found.begin(), found.end(), [&](const char* text) {
            return *text ? outcome.mentions(text) : outcome.out != wanted;
        });
        EXPECT_TRUE(said) << "wanted '" << found[0] << "', got " << outcome.to_string();
    }
}

INSTANTIATE_TEST_SUITE_P(
    Chain, PlantedHopperBug,
    testing::Values(
        Planted{HopperBug::kReleasesFirstKeysEarly, {"race with a read under way", "race with wgmma"}},
        Planted{HopperBug::kReleasesValuesEarly, {"race with a read under way", "race with wgmma"}},
        Planted{HopperBug::kReleasesWhatLanesRead, {"race on shared memory"}},
        Planted{HopperBug::kReadsScoresEarly, {"reads sums of a wgmma in flight"}},
        Planted{HopperBug::kScalesSumsInFlight, {"reads sums of a wgmma in flight"}},
        Planted{HopperBug::kRewritesOperandInFlight, {"writes an operand of a wgmma in flight"}},
        Planted{HopperBug::kNoWgmmaFence, {"no wgmma.fence"}},
        Planted{HopperBug::kExitsWithWgmma, {"sums were written while a wgmma", "never waited for", kNumbers}},
        Planted{HopperBug::kWrongLeadingOffset, {kNumbers, "outside of shared memory"}},
        Planted{HopperBug::kWrongSwizzle, {kNumbers}}, Planted{HopperBug::kWrongProducerParity, {"deadlock"}},
        Planted{HopperBug::kWrongConsumerParity, {"race with an asynchronous copy", "uninitialised", "deadlock"}},
        Planted{HopperBug::kWaitsForOtherStage, {"race with an asynchronous copy", "uninitialised", "deadlock"}},
        Planted{HopperBug::kExpectsTooFewBytes, {"deadlock"}}, Planted{HopperBug::kNoProxyFence, {"no proxy fence"}},
        Planted{HopperBug::kFenceAfterBarrier, {"no proxy fence"}},
        Planted{HopperBug::kNoBarrierBeforeStore, {"race on shared memory", "uninitialised"}},
        Planted{HopperBug::kReusesSourceOfStore, {"race with a read under way", "race on shared memory"}},
        Planted{HopperBug::kNoInitFence, {"no fence.mbarrier_init"}},
        Planted{HopperBug::kTooManyRegisters, {"setmaxnreg.inc"}}),
    [](const auto& info) { return "Number" + std::to_string(static_cast<int>(info.param.bug)); });

}  // namespace
}  // namespace plimsoll
