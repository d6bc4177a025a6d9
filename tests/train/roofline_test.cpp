#include "train/roofline.h"

#include <gtest/gtest.h>

#include "kernels/residual.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

// 100 FLOP/s of products in bf16, 10 in fp32, 5 bytes/s.
constexpr Ceilings kCeilings{.bf16_products = 100, .fp32 = 10, .read = 5, .triad = 4};

OpTime op(const char* path, double seconds, OpWork work) {
    return {path, seconds, 1, work};
}

TEST(Roofline, TheSlowestOfThreeBoundsAnOp) {
    const StepProfile profile{20,
                              {op("bf16 product", 4, {.products = 200, .others = 10, .bytes = 5, .bf16 = true}),
                               op("fp32 product", 8, {.products = 40, .others = 0, .bytes = 10}),
                               op("memory", 4, {.products = 0, .others = 5, .bytes = 10}),
                               op("arithmetic", 3, {.products = 100, .others = 15, .bytes = 0, .bf16 = true})}};
    const Roofline step = make_roofline(profile, kCeilings);
    ASSERT_EQ(step.rows.size(), 4u);
    const auto expect = [&](size_t i, Bound bound, double floor, double share) {
        EXPECT_EQ(step.rows[i].bound, bound) << i;
        EXPECT_DOUBLE_EQ(step.rows[i].floor, floor) << i;
        EXPECT_DOUBLE_EQ(step.rows[i].share(), share) << i;
    };
    expect(0, Bound::kProducts, 2, 0.5);      // 200 / 100 against 10 / 10 and 5 / 5
    expect(1, Bound::kProducts, 4, 0.5);      // 40 / 10 against 10 / 5
    expect(2, Bound::kMemory, 2, 0.5);        // 10 / 5 against 5 / 10
    expect(3, Bound::kArithmetic, 1.5, 0.5);  // 15 / 10 against 100 / 100
    EXPECT_DOUBLE_EQ(step.rows[0].flops_per_second(), 52.5);
    EXPECT_DOUBLE_EQ(step.rows[0].bytes_per_second(), 1.25);
    EXPECT_DOUBLE_EQ(step.rows[0].intensity(), 42);
    EXPECT_DOUBLE_EQ(step.floor, 9.5);
    EXPECT_DOUBLE_EQ(step.in_ops(), 19);
    EXPECT_DOUBLE_EQ(step.accounted(), 0.95);
}

TEST(Roofline, TableAndJsonSayTheSame) {
    const Roofline step =
        make_roofline({2, {op("block/op", 1, {.products = 50, .bytes = 1, .bf16 = true})}}, kCeilings);
    const std::string text = table(step);
    for (const char* part : {"| block/op | 1 | 1000.000 | 50.0 |", "| products | 50 |", "| between ops | | 1000.000 |",
                             "50.0 % of the step's time is in ops"})
        EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
    const nlohmann::json json = to_json(step);
    EXPECT_EQ(json.at("accounted"), 0.5);
    EXPECT_EQ(json.at("ms_between_ops"), 1000);
    EXPECT_EQ(json.at("ops").at(0).at("bound"), "products");
    EXPECT_EQ(json.at("ops").at(0).at("share_of_ceiling"), 0.5);
    EXPECT_EQ(to_json(kCeilings).at("triad_bytes_per_second"), 4);
    EXPECT_NE(describe(kCeilings).find("bf16 products"), std::string::npos);
}

// A profile that counts keeps each op's work with its time, and nothing with the ranges around it.
TEST(Roofline, ProfilesCountWork) {
    Exec exec{.threads = 1};
    float values[4] = {1, 2, 3, 4};
    const Tensor x(values, DType::kF32, {1, 4});
    for (const auto& [kind, bytes] : {std::pair{Profile::Work::kIgnored, 0.0}, {Profile::Work::kCounted, 64.0}}) {
        Profile profile(exec, kind);
        exec.tracer = &profile;
        for (int layer = 0; layer < 2; ++layer) {
            const TraceRange range(exec, "block", layer);
            convert(x, x, exec);
        }
        const std::vector<OpTime> times = profile.op_times();
        ASSERT_EQ(times.size(), 1u);
        EXPECT_EQ(times[0].calls, 2);
        EXPECT_EQ(times[0].work.bytes, bytes);
    }
}

}  // namespace
}  // namespace plimsoll
