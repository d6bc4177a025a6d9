#include "train/time_limit.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <ctime>

#include "train/timing.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

class TimeLimitTest : public testing::Test {
  protected:
    void SetUp() override { unsetenv("SLURM_JOB_END_TIME"); }
    void TearDown() override { unsetenv("SLURM_JOB_END_TIME"); }
};

TEST_F(TimeLimitTest, WithoutOneNothingIsEverReached) {
    EXPECT_FALSE(TimeLimit().is_reached(1e300));
    EXPECT_FALSE(TimeLimit::of(0).is_reached(1e300));
    EXPECT_EQ(TimeLimit::of(0).name(), "");
    setenv("SLURM_JOB_END_TIME", "", 1);
    EXPECT_FALSE(TimeLimit::of(0).is_reached(1e300));
}

// By hand: 1.25 (2 step + evaluation + 2 save) + 1.
TEST_F(TimeLimitTest, LeavesTimeForWhatMayStillCome) {
    TimeLimit limit(100, "test");
    EXPECT_EQ(limit.needed(), 1);
    limit.expect_save(10);
    EXPECT_EQ(limit.needed(), 26);
    limit.took_step(2), limit.took_step(3), limit.took_step(1);
    limit.took_evaluation(4), limit.took_evaluation(2);
    EXPECT_EQ(limit.needed(), 38.5);
    limit.took_save(1);  // measured: the guess goes, though it was longer
    EXPECT_EQ(limit.needed(), 16);
    limit.took_save(3), limit.took_save(2);
    EXPECT_EQ(limit.needed(), 21);
    EXPECT_FALSE(limit.is_reached(79));
    EXPECT_TRUE(limit.is_reached(79.1));
}

TEST_F(TimeLimitTest, OnlyRecentStepsCount) {
    TimeLimit limit(100, "test");
    limit.took_step(20);
    for (int i = 0; i < 99; ++i) limit.took_step(2);
    EXPECT_EQ(limit.needed(), 51);
    limit.took_step(2);
    EXPECT_EQ(limit.needed(), 6);
}

TEST_F(TimeLimitTest, StartsWithTheProcess) {
    const TimeLimit limit = TimeLimit::of(50);
    EXPECT_EQ(limit.name(), "train.max_seconds = 50");
    EXPECT_LE(process_start(), now_seconds());
    EXPECT_FALSE(limit.is_reached(process_start() + 49 - 1e-6));
    EXPECT_TRUE(limit.is_reached(process_start() + 49 + 1e-6));
}

TEST_F(TimeLimitTest, EndsWithTheSlurmJobUnlessTheConfigurationSaysWhen) {
    setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) + 1000).c_str(), 1);
    const TimeLimit limit = TimeLimit::of(0);
    EXPECT_NE(limit.name().find("SLURM_JOB_END_TIME = "), std::string::npos);
    EXPECT_FALSE(limit.is_reached(now_seconds() + 990));  // its second may have begun
    EXPECT_TRUE(limit.is_reached(now_seconds() + 1001));
    EXPECT_FALSE(TimeLimit::of(5000).is_reached(process_start() + 4990));
    setenv("SLURM_JOB_END_TIME", std::to_string(std::time(nullptr) - 10).c_str(), 1);  // of a job that is over
    EXPECT_FALSE(TimeLimit::of(0).is_reached(1e300));
    for (const char* bad : {"soon", "12x", "-5", "0"}) {
        setenv("SLURM_JOB_END_TIME", bad, 1);
        expect_error(ExitCode::kBadInput, {"SLURM_JOB_END_TIME", bad, "train.max_seconds"}, [] { TimeLimit::of(0); });
    }
}

}  // namespace
}  // namespace plimsoll
