// Which kernels a call of attention launches. Emulated only: the device counts them.
#include <gtest/gtest.h>

#include "simt/machine.h"
#include "support/attention_device.h"

namespace plimsoll {
namespace {

// Forward: tables of documents, attention. Backward: tables, dK and dV, dQ; delta and rows where there is need of them.
TEST(CudaAttentionLaunches, DeltaAndRowsAreMadeWhereTheWeightingNeedsThem) {
    const auto launches = [](const AttentionCase& c) {
        const AttentionRun<bf16> run(c);
        const uint64_t before = simt::statistics().launches;
        run_on_device(run, Write::kOverwrite, on_gpu());
        return simt::statistics().launches - before;
    };
    constexpr uint64_t kLeast = 5, kDelta = 1, kRows = 1;
    for (const char* alone : {"sigmoid", "relu", "elu1", "linear"})
        EXPECT_EQ(launches({.weighting = alone, .HS = 64}), kLeast) << alone << ": queries differ in nothing";
    EXPECT_EQ(launches({.weighting = "sigmoid", .HS = 32}), kLeast) << "the kernels for sm_80";
    EXPECT_EQ(launches({.weighting = "sigmoid", .HS = 128}), kLeast + kRows) << "no registers for what all have";
    EXPECT_EQ(launches({.weighting = "sigmoid", .bias = ScoreBias::kPerRow, .HS = 64}), kLeast + kRows);
    EXPECT_EQ(launches({.weighting = "sigmoid", .HS = 64, .gate = true}), kLeast + kDelta + kRows) << "dgate";
    for (const int64_t HS : {64, 96, 128, 256})
        EXPECT_EQ(launches({.HS = HS}), kLeast + kDelta + kRows) << "softmax, head size " << HS;
    EXPECT_EQ(launches({.HS = 32}), kLeast + kDelta);
}

}  // namespace
}  // namespace plimsoll
