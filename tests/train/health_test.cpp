#include "train/health.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "train_test_support.h"

namespace plimsoll {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

HealthSection policy() {
    HealthSection config;
    config.max_skips = 2, config.spike = 6, config.window = 8;
    return config;
}

// Good steps whose values vary.
void fill(Health& health, int steps) {
    for (int i = 0; i < steps; ++i) ASSERT_EQ(health.judge(3 + 0.1 * (i % 3), 1 + 0.05 * (i % 4)), Verdict::kUpdate);
}

TEST(Health, WhatIsNotFiniteIsLeftOut) {
    for (const double bad : {kNan, kInf, -kInf}) {
        Health health(policy());
        EXPECT_EQ(health.judge(bad, 1), Verdict::kSkip);
        EXPECT_NE(health.reason().find("loss"), std::string::npos);
        EXPECT_EQ(health.judge(3, bad), Verdict::kSkip);
        EXPECT_NE(health.reason().find("gradient norm"), std::string::npos);
        EXPECT_EQ(health.skipped(), 2);
        EXPECT_EQ(health.judge(3, bad), Verdict::kStop);
    }
}

TEST(Health, OnlyBadStepsInARowEndARun) {
    Health health(policy());
    for (int i = 0; i < 20; ++i) {
        EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
        EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
        EXPECT_EQ(health.judge(3, 1), Verdict::kUpdate);
    }
    EXPECT_EQ(health.skipped(), 40);
}

TEST(Health, ASpikeIsFarAboveTheLastGoodSteps) {
    Health health(policy());
    fill(health, 7);
    EXPECT_EQ(health.judge(3000, 1), Verdict::kUpdate) << "the window was not full yet";
    Health full(policy());
    fill(full, 8);
    EXPECT_EQ(full.judge(3.2, 1), Verdict::kUpdate);
    EXPECT_EQ(full.judge(9, 1), Verdict::kSkip);
    EXPECT_NE(full.reason().find("standard deviations above"), std::string::npos) << full.reason();
    EXPECT_EQ(full.judge(3, 50), Verdict::kSkip);
    EXPECT_EQ(full.judge(0.001, 0.001), Verdict::kUpdate) << "low is never a spike";
}

// A spike is measured against good steps only: it stays one however often it comes.
TEST(Health, BadStepsNeverEnterTheMean) {
    HealthSection config = policy();
    config.max_skips = 100;
    Health health(config);
    fill(health, 8);
    for (int i = 0; i < 50; ++i) EXPECT_EQ(health.judge(i % 2 ? 9 : kNan, 1), Verdict::kSkip) << i;
    EXPECT_EQ(health.judge(3.1, 1), Verdict::kUpdate);
}

TEST(Health, RollsBackAsOftenAsItMay) {
    HealthSection config = policy();
    config.max_rollbacks = 2;
    Health health(config);
    for (int rollback = 0; rollback < 2; ++rollback) {
        EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
        EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
        EXPECT_EQ(health.judge(kNan, 1), Verdict::kRollBack);
    }
    EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
    EXPECT_EQ(health.judge(kNan, 1), Verdict::kSkip);
    EXPECT_EQ(health.judge(kNan, 1), Verdict::kStop);
}

// The decisions after a resume are those of a run that was never interrupted, wherever the cut.
TEST(Health, AResumedRunDecidesAlike) {
    const auto loss = [](int i) { return i % 13 == 12 ? 40.0 : i % 17 == 5 ? kNan : 3 + std::sin(0.7 * i) / 3; };
    std::vector<Verdict> whole;
    HealthSection config = policy();
    config.spike = 2.5;
    Health uncut(config);
    for (int i = 0; i < 60; ++i) whole.push_back(uncut.judge(loss(i), 1 + 1e-3 * i));
    EXPECT_GT(uncut.skipped(), 3);
    for (int cut = 0; cut < 60; ++cut) {
        Health before(config);
        for (int i = 0; i < cut; ++i) before.judge(loss(i), 1 + 1e-3 * i);
        Health after(config);
        after.restore(nlohmann::json::parse(before.state().dump()));
        for (int i = cut; i < 60; ++i)
            ASSERT_EQ(after.judge(loss(i), 1 + 1e-3 * i), whole[static_cast<size_t>(i)]) << "cut at " << cut;
        EXPECT_EQ(after.skipped(), uncut.skipped());
    }
}

TEST(Stragglers, TheSlowRankIsNamed) {
    Stragglers even, uneven;
    for (int step = 1; step <= 30; ++step) {
        EXPECT_EQ(even.add(std::vector<double>{0.10, 0.12, 0.14, 0.11}), "");
        const std::string said = uneven.add(std::vector<double>{0.010, 0.012, step % 2 ? 0.060 : 0.020, 0.011});
        EXPECT_EQ(said, step % 10 ? "" : "straggler: rank 2 computes 40 ms per step, the others 11 ms");
    }
    Stragglers alone;
    for (int step = 0; step < 20; ++step) EXPECT_EQ(alone.add(std::vector<double>{1.0}), "");
}

TEST(Health, RefusesWhatIsNoRecord) {
    Health health(policy());
    EXPECT_THROW(health.restore(nlohmann::json::parse(R"({"loss": 3})")), Error);
    EXPECT_THROW(health.restore(nlohmann::json::array()), Error);
}

}  // namespace
}  // namespace plimsoll
