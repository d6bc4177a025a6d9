// The ground everything stands on: errors, dtypes, tensor views, arenas and counter-based random numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/arena.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

namespace plimsoll {
namespace {

TEST(Philox, MatchesTheKnownAnswersOfRandom123) {
    // Known-answer vectors that Salmon et al. publish with Random123 for philox4x32-10.
    EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
              (std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
    EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
              (std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
}

TEST(RandomStream, IsAPureFunctionOfItsKey) {
    const RandomStream stream(1, "init", "wte.weight");
    EXPECT_EQ(stream.bits64(7), RandomStream(1, "init", "wte.weight").bits64(7));
    EXPECT_NE(stream.bits64(7), stream.bits64(8));
    EXPECT_NE(stream.bits64(7), RandomStream(2, "init", "wte.weight").bits64(7));
    EXPECT_NE(stream.bits64(7), RandomStream(1, "data", "wte.weight").bits64(7));
    EXPECT_NE(stream.bits64(7), RandomStream(1, "init", "wpe.weight").bits64(7));
    EXPECT_NE(stream.bits64(7), RandomStream(1, "init", "wte.weight", 1).bits64(7));
}

TEST(RandomStream, NormalHasUnitMoments) {
    const RandomStream stream(3, "test");
    constexpr int kCount = 200000;
    double sum = 0, squares = 0;
    for (int i = 0; i < kCount; ++i) {
        const double x = stream.normal(static_cast<uint64_t>(i));
        sum += x;
        squares += x * x;
    }
    // Five standard errors: of the mean 1/sqrt(n), of the second moment sqrt(2/n).
    EXPECT_NEAR(sum / kCount, 0.0, 5.0 / std::sqrt(kCount));
    EXPECT_NEAR(squares / kCount, 1.0, 5.0 * std::sqrt(2.0 / kCount));
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
    EXPECT_EQ(bf16(1.0f).bits, 0x3f80);
    EXPECT_EQ(bf16(1.0f + 0x1p-8f).bits, 0x3f80);             // a tie, to even: down
    EXPECT_EQ(bf16(1.0f + 0x3p-8f).bits, 0x3f82);             // a tie, to even: up
    EXPECT_EQ(bf16(1.0f + 0x1p-8f + 0x1p-20f).bits, 0x3f81);  // just above a tie
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
    EXPECT_TRUE(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::infinity()))));
}

TEST(Tensor, ASliceOfColumnsKeepsTheRowStride) {
    std::vector<float> storage(2 * 3 * 4);
    for (size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<float>(i);
    const Tensor qkv(storage.data(), DType::kF32, {2, 3, 4});
    const Tensor k = qkv.slice_columns(1, 1);
    EXPECT_EQ(k.shape, (Shape{2, 1, 4}));
    EXPECT_EQ(k.row_stride, 12);
    EXPECT_FALSE(k.contiguous());
    EXPECT_EQ(k.ptr<float>()[0], 4.0f);
    EXPECT_EQ(k.slice_rows(1, 1).ptr<float>()[0], 16.0f);
    EXPECT_THROW(k.span<float>(), Error);
    EXPECT_THROW(qkv.ptr<double>(), Error);
    EXPECT_THROW(qkv.slice_rows(1, 2), Error);
    EXPECT_THROW(qkv.slice_columns(2, 2), Error);
}

TEST(Arena, GivesEachNameItsOwnAlignedMemory) {
    ArenaPlan plan("test");
    const ArenaSlot a = plan.add("a", {3}, DType::kF32);
    const ArenaSlot b = plan.add("b", {5, 2}, DType::kBF16);
    EXPECT_EQ(plan.bytes(), 128);  // each rounded up to 64
    const Arena arena(plan);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena[b].data) - reinterpret_cast<uintptr_t>(arena[a].data), 64u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena[a].data) % (2 << 20), 0u);
    EXPECT_EQ(arena[b].shape, (Shape{5, 2}));
    EXPECT_FALSE(arena[ArenaSlot{}]);
}

TEST(Error, SaysWhereAPromiseBroke) {
    try {
        check(false, "saw {}, wanted {}", 3, 4);
        FAIL() << "check(false) returned";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kInternal);
        EXPECT_NE(std::string(error.what()).find("saw 3, wanted 4"), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("foundation_test.cpp"), std::string::npos);
    }
}

}  // namespace
}  // namespace plimsoll
