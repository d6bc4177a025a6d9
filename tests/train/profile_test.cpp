#include "train/profile.h"

#include <gtest/gtest.h>

#include "kernels/residual.h"
#include "train/speed.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

TEST(Profile, StepRanges) {
    EXPECT_EQ(parse_step_range("3:5").first, 3);
    EXPECT_EQ(parse_step_range("3:5").last, 5);
    EXPECT_EQ(parse_step_range("7").last, 7);
    EXPECT_TRUE(parse_step_range("3:5").contains(5));
    EXPECT_FALSE(parse_step_range("3:5").contains(6));
    EXPECT_FALSE(StepRange{}.contains(1));
    for (const char* wrong : {"", "0:3", "5:3", "3:", ":3", "3-5", "3:5x", "-1", "99999999999999999999"})
        expect_error(ExitCode::kBadInput, {"--profile", "A:B"}, [&] { parse_step_range(wrong); });
}

// Every op tells the tracer its name, inside the range that is open.
TEST(Profile, TraceHoldsOpsInsideTheirRanges) {
    Exec exec{.threads = 1};
    Profile profile(exec);
    exec.tracer = &profile;
    float values[4] = {1, 2, 3, 4};
    const Tensor x(values, DType::kF32, {1, 4});
    {
        const TraceRange range(exec, "block", 3);
        convert(x, x, exec);
        EXPECT_THROW(profile.chrome_trace(), Error);
    }
    const nlohmann::json events = nlohmann::json::parse(profile.chrome_trace()).at("traceEvents");
    ASSERT_EQ(events.size(), 3u);
    EXPECT_EQ(events[0].at("ph"), "M");
    const auto &outer = events[1], &inner = events[2];
    EXPECT_EQ(outer.at("name"), "block 3");
    EXPECT_EQ(inner.at("name"), "convert");
    EXPECT_LE(outer.at("ts").get<double>(), inner.at("ts").get<double>());
    EXPECT_GE(outer.at("ts").get<double>() + outer.at("dur").get<double>(),
              inner.at("ts").get<double>() + inner.at("dur").get<double>());
    EXPECT_THROW(profile.end(), Error);
}

TEST(Profile, OpTimesAddUpCallsInTheSamePlace) {
    Exec exec{.threads = 1};
    Profile profile(exec);
    exec.tracer = &profile;
    float values[4] = {1, 2, 3, 4};
    const Tensor x(values, DType::kF32, {1, 4});
    for (int layer = 0; layer < 3; ++layer) {
        const TraceRange range(exec, "block", layer);
        convert(x, x, exec);
        fill_zero(x, exec);
    }
    convert(x, x, exec);
    const std::vector<OpTime> times = profile.op_times();
    ASSERT_EQ(times.size(), 3u);
    EXPECT_EQ(times[0].path, "block/convert");
    EXPECT_EQ(times[0].calls, 3);
    EXPECT_EQ(times[1].path, "block/fill_zero");
    EXPECT_EQ(times[2].path, "convert");
    EXPECT_EQ(times[2].calls, 1);
    for (const OpTime& op : times) EXPECT_GE(op.seconds, 0);
    const TraceRange open(exec, "open");
    EXPECT_THROW(profile.op_times(), Error);
}

TEST(Speed, CardsByTheDriversName) {
    EXPECT_EQ(card_tflops("NVIDIA H200"), 989.4);
    EXPECT_EQ(card_tflops("NVIDIA H100 80GB HBM3"), 989.4);
    EXPECT_EQ(card_tflops("NVIDIA H100 PCIe"), 756);
    EXPECT_EQ(card_tflops("NVIDIA A100-SXM4-80GB"), 312);
    EXPECT_EQ(card_tflops("NVIDIA L40S"), 362);
    EXPECT_EQ(card_tflops("NVIDIA L4"), 121);
    EXPECT_EQ(card_tflops("NVIDIA GeForce RTX 4090"), 165.2);
    EXPECT_FALSE(card_tflops("NVIDIA GeForce GTX 1080"));
}

// The CPU has no data sheet here, and says nothing rather than something wrong.
TEST(Speed, OfACpuIsNotClaimed) {
    const Exec exec{.threads = 1};
    SpeedOfLight speed(exec);
    speed.measure(DType::kF32, exec);
    EXPECT_EQ(speed.describe() + speed.utilization(1e12), "");
    EXPECT_GT(matmul_flops_per_second(DType::kF32, 64, 64, 64, exec), 0);
}

}  // namespace
}  // namespace plimsoll
