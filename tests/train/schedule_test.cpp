#include "train/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "train_test_support.h"

namespace plimsoll {
namespace {

// Rates of every update of a run with peak 1.
std::vector<double> rates(const ScheduleSection& schedule, int64_t max_steps) {
    std::vector<double> out;
    for (int64_t step = 0; step < max_steps; ++step) out.push_back(learning_rate(schedule, 1.0, step, max_steps));
    return out;
}

void expect_rates(const ScheduleSection& schedule, const std::vector<double>& wanted) {
    const std::vector<double> seen = rates(schedule, static_cast<int64_t>(wanted.size()));
    for (size_t step = 0; step < wanted.size(); ++step)
        EXPECT_NEAR(seen[step], wanted[step], 1e-12) << schedule.kind << ", step " << step;
}

TEST(Schedule, FollowsItsFormulas) {
    ScheduleSection s{.kind = "cosine", .warmup_steps = 10, .final_fraction = 0.1, .decay_fraction = 0.2};
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 0, 111), 0.2);   // first of ten warmup steps
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 9, 111), 2.0);   // last
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 10, 111), 2.0);  // p = 0
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 60, 111), 1.1);  // p = 1/2: the mean of 1 and 0.1
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 110, 111), 0.2);
    s.kind = "linear";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 60, 111), 1.1);
    EXPECT_NEAR(learning_rate(s, 2.0, 35, 111), 2 * (1 - 0.9 * 0.25), 1e-12);
    s.kind = "constant";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 110, 111), 2.0);
    s.kind = "wsd";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 79, 101), 2.0);
    EXPECT_NEAR(learning_rate(s, 2.0, 81 + 19, 101), 0.2, 1e-12);
    EXPECT_NEAR(learning_rate(s, 2.0, 86, 101), 2 * (0.1 + 0.9 * (1 - std::sqrt(5.0 / 19))), 1e-12);
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 3, 5), 0.8);  // a run shorter than its warmup
}

// Worked out by hand: two warmup steps, then five updates with p = 0, 1/4, 1/2, 3/4, 1.
TEST(Schedule, EveryStepOfAShortRun) {
    const double r = std::sqrt(0.5);  // cos(pi / 4)
    expect_rates({.kind = "constant", .warmup_steps = 2}, {0.5, 1, 1, 1, 1, 1, 1});
    expect_rates({.kind = "linear", .warmup_steps = 2, .final_fraction = 0.2}, {0.5, 1, 1, 0.8, 0.6, 0.4, 0.2});
    expect_rates({.kind = "cosine", .warmup_steps = 2, .final_fraction = 0.2},
                 {0.5, 1, 1, 0.2 + 0.4 * (1 + r), 0.6, 0.2 + 0.4 * (1 - r), 0.2});
    // wsd: 4 of 10 steps decay, with q = 0, 1/3, 2/3, 1.
    expect_rates({.kind = "wsd", .warmup_steps = 2, .final_fraction = 0, .decay_fraction = 0.4},
                 {0.5, 1, 1, 1, 1, 1, 1, 1 - std::sqrt(1.0 / 3), 1 - std::sqrt(2.0 / 3), 0});
}

TEST(Schedule, TheLastStepReachesTheFinalFraction) {
    for (const char* kind : {"cosine", "linear", "wsd"})
        for (const int64_t max_steps : {2, 3, 10, 1000})
            for (const int64_t warmup : {0, 1})
                for (const double final_fraction : {0.0, 0.1, 1.0})
                    EXPECT_NEAR(rates({.kind = kind,
                                       .warmup_steps = warmup,
                                       .final_fraction = final_fraction,
                                       .decay_fraction = 0.5},
                                      max_steps)
                                    .back(),
                                final_fraction, 1e-12)
                        << kind << ", " << max_steps << " steps, " << warmup << " of warmup";
}

TEST(Schedule, ARunShorterThanItsWarmupOnlyRises) {
    for (const char* kind : {"constant", "cosine", "linear", "wsd"}) {
        expect_rates({.kind = kind, .warmup_steps = 100}, {0.01, 0.02, 0.03});
        expect_rates({.kind = kind, .warmup_steps = 3}, {1.0 / 3, 2.0 / 3, 1});
    }
}

TEST(Schedule, TheEdgesOfWsd) {
    expect_rates({.kind = "wsd", .warmup_steps = 0, .final_fraction = 0.5, .decay_fraction = 0}, {1, 1, 1, 1});
    expect_rates({.kind = "wsd", .warmup_steps = 0, .final_fraction = 0.5, .decay_fraction = 1},
                 {1, 0.5 + 0.5 * (1 - std::sqrt(0.5)), 0.5});
    // One decaying step is the last.
    expect_rates({.kind = "wsd", .warmup_steps = 0, .final_fraction = 0.5, .decay_fraction = 0.25}, {1, 1, 1, 0.5});
    // Warmup reaches into the decay: it begins after the warmup.
    expect_rates({.kind = "wsd", .warmup_steps = 3, .final_fraction = 0, .decay_fraction = 0.75},
                 {1.0 / 3, 2.0 / 3, 1, 0});
}

TEST(Schedule, NeverLeavesTheRangeBetweenFinalAndPeak) {
    for (const char* kind : {"constant", "cosine", "linear", "wsd"})
        for (int64_t max_steps = 1; max_steps < 40; ++max_steps)
            for (const int64_t warmup : {0, 1, 7, 39})
                for (const double rate :
                     rates({.kind = kind, .warmup_steps = warmup, .final_fraction = 0}, max_steps)) {
                    ASSERT_GE(rate, 0) << kind << " " << max_steps << " " << warmup;
                    ASSERT_LE(rate, 1) << kind << " " << max_steps << " " << warmup;
                }
}

TEST(Schedule, AnUnknownKindIsABrokenPromise) {
    expect_error(ExitCode::kInternal, {"'stairs'"},
                 [] { learning_rate({.kind = "stairs", .warmup_steps = 0}, 1.0, 0, 1); });
}

}  // namespace
}  // namespace plimsoll
