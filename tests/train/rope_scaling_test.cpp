#include "train/rope_scaling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "train/loss_bins.h"

namespace plimsoll {
namespace {

// By hand, for heads of 64, theta 10000, trained on 2048 positions and read to 8192.
TEST(RopeScaling, FollowsThePapers) {
    const auto all = rope_scalings(10000, 64, 2048, 4);
    ASSERT_EQ(all.size(), 3u);
    for (const RopeScaling& scaling : all) ASSERT_EQ(scaling.frequencies.size(), 32u) << scaling.name;
    const RopeScaling &linear = all[0], &ntk = all[1], &yarn = all[2];
    EXPECT_EQ(linear.name + " " + ntk.name + " " + yarn.name, "linear ntk yarn");
    EXPECT_EQ(linear.score_factor, 1);
    EXPECT_EQ(ntk.score_factor, 1);
    EXPECT_NEAR(yarn.score_factor, std::pow(1 + 0.1 * std::log(4.0), 2), 1e-15);
    int kept = 0, mixed = 0, interpolated = 0;
    for (size_t c = 0; c < 32; ++c) {
        const double trained = std::pow(10000, -2.0 * static_cast<double>(c) / 64);
        EXPECT_NEAR(linear.frequencies[c], trained / 4, 1e-15);
        // 10000 * 4^(64/62) = 41829.3
        EXPECT_NEAR(ntk.frequencies[c], std::pow(10000 * std::pow(4.0, 64.0 / 62), -2.0 * static_cast<double>(c) / 64),
                    1e-15);
        const double rotations = 2048 * trained / (2 * std::numbers::pi), now = yarn.frequencies[c];
        if (rotations >= 32) {
            EXPECT_DOUBLE_EQ(now, trained);
            ++kept;
        } else if (rotations <= 1) {
            EXPECT_DOUBLE_EQ(now, trained / 4);
            ++interpolated;
        } else {
            const double r = (rotations - 1) / 31;
            EXPECT_NEAR(now, (1 - r) * trained / 4 + r * trained, 1e-15);
            ++mixed;
        }
    }
    // 2048 theta^(-c/32) / 2 pi falls below 32 at c = 8.06 and below 1 at c = 20.1.
    EXPECT_EQ(kept, 9);
    EXPECT_EQ(mixed, 12);
    EXPECT_EQ(interpolated, 11);
    // What makes it NTK: the fastest pair stays, the slowest is interpolated in full.
    EXPECT_EQ(ntk.frequencies[0], 1);
    EXPECT_NEAR(ntk.frequencies[31], linear.frequencies[31], 1e-12);
}

TEST(RopeScaling, IsNoneForTheTrainedContextAndKnowsSmallHeads) {
    for (const int64_t HS : {2, 6})
        for (const RopeScaling& scaling : rope_scalings(500, HS, 64, 1)) {
            EXPECT_DOUBLE_EQ(scaling.score_factor, 1);
            for (size_t c = 0; c < scaling.frequencies.size(); ++c)
                EXPECT_NEAR(scaling.frequencies[c],
                            std::pow(500, -2.0 * static_cast<double>(c) / static_cast<double>(HS)), 1e-15)
                    << scaling.name;
        }
}

TEST(LossBins, DoubleInWidth) {
    LossBins bins;
    for (int64_t position = 0; position < 9; ++position)
        if (position != 2 && position != 3) bins.add(position, static_cast<double>(position));
    const nlohmann::json curve = bins.curve("loss");
    EXPECT_EQ(curve["name"], "loss");
    EXPECT_EQ(curve["x"], (std::vector<int>{1, 2, 5, 9}));  // positions 0 | 1 | 4 to 7 | 8, from 1
    EXPECT_EQ(curve["y"], (std::vector<double>{0, 1, 5.5, 8}));
}

}  // namespace
}  // namespace plimsoll
