#include "train/export/tensor_types.h"

#include <bit>
#include <cmath>
#include <limits>

#include "data/data_test_support.h"
#include "kernels/dtype.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

constexpr uint16_t kInfinity = 0x7c00;

std::vector<float> round_trip(const std::vector<float>& values, TensorType type) {
    std::string bytes;
    encode(bytes, values, type, "test");
    std::vector<float> out(values.size());
    decode(out, std::as_bytes(std::span(bytes)), type);
    return out;
}

TEST(Half, EveryValueComesBack) {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
        const float value = from_half(static_cast<uint16_t>(bits));
        if ((bits & 0x7fff) > kInfinity) {
            EXPECT_TRUE(std::isnan(value)) << bits;
            EXPECT_TRUE(std::isnan(from_half(half_of(value))));
        } else {
            ASSERT_EQ(half_of(value), bits);
        }
    }
    EXPECT_EQ(from_half(0x3c00), 1.0f);
    EXPECT_EQ(from_half(0xc000), -2.0f);
    EXPECT_EQ(from_half(0x7bff), 65504.0f);
    EXPECT_EQ(from_half(0x0001), 0x1p-24f);
    EXPECT_EQ(from_half(0x0400), 0x1p-14f);
}

// Against the definition: the nearest of the neighbours, of two equally near ones the even.
TEST(Half, RoundsToNearestTiesToEven) {
    const RandomStream stream(3, "half");
    for (uint64_t n = 0; n < 200'000; ++n) {
        const auto bits = static_cast<uint16_t>(stream.below(2 * n, kInfinity));  // finite, not negative
        const double low = from_half(bits),
                     high = bits + 1 == kInfinity ? 65536.0 : from_half(static_cast<uint16_t>(bits + 1));
        const double share = n % 3 == 0 ? 0.5 : stream.uniform(2 * n + 1);
        const auto value = static_cast<float>(low + share * (high - low));
        const double down = static_cast<double>(value) - low, up = high - static_cast<double>(value);
        const uint16_t wanted = down < up || (down == up && bits % 2 == 0) ? bits : static_cast<uint16_t>(bits + 1);
        ASSERT_EQ(half_of(value), wanted) << value;
        ASSERT_EQ(half_of(-value), wanted | 0x8000);
    }
    EXPECT_EQ(half_of(std::nextafter(65520.0f, 0.0f)), 0x7bff);
    EXPECT_EQ(half_of(65520.0f), kInfinity);
    EXPECT_EQ(half_of(std::numeric_limits<float>::infinity()), kInfinity);
    EXPECT_EQ(half_of(0x1p-25f), 0);  // half of the smallest: even is zero
    EXPECT_EQ(half_of(std::nextafter(0x1p-25f, 1.0f)), 1);
    EXPECT_EQ(half_of(1e-40f), 0);
}

TEST(TensorTypes, RoundAsTheyShould) {
    const std::vector<float> values{0.1f, -3.14159f, 1e-3f, 12345.678f};
    EXPECT_EQ(round_trip(values, TensorType::kF32), values);
    EXPECT_EQ(round_trip(values, TensorType::kF64), values);
    const std::vector<float> narrow = round_trip(values, TensorType::kBF16);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_EQ(narrow[i], static_cast<float>(bf16(values[i])));
    const std::vector<float> half = round_trip(values, TensorType::kF16);
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(half[i], values[i], std::abs(values[i]) / 2048);
}

// d = max / 127 as f16; values are whole multiples of it, halves away from zero.
TEST(TensorTypes, Q8HasGgmlsBytes) {
    std::vector<float> values(64, 0.0f);
    for (size_t i = 0; i < 32; ++i) values[i] = static_cast<float>(i) - 16;  // largest 16
    values[1] = 127.0f, values[2] = 2.5f, values[3] = -2.5f, values[4] = 0.4999f;
    std::string bytes;
    encode(bytes, values, TensorType::kQ8_0, "test");
    ASSERT_EQ(bytes.size(), 68u);
    EXPECT_EQ(bytes.substr(0, 2), std::string("\x00\x3c", 2));  // 1.0
    const auto at = [&](size_t i) { return static_cast<int>(static_cast<int8_t>(bytes[2 + i])); };
    EXPECT_EQ(at(0), -16);
    EXPECT_EQ(at(1), 127);
    EXPECT_EQ(at(2), 3);
    EXPECT_EQ(at(3), -3);
    EXPECT_EQ(at(4), 0);
    EXPECT_EQ(bytes.substr(34), std::string(34, '\0'));  // a block of zeros
    EXPECT_EQ(round_trip(values, TensorType::kQ8_0)[1], 127.0f);
}

TEST(TensorTypes, RefuseWhatDoesNotFit) {
    std::string bytes;
    const std::vector<float> large(32, 70000.0f), infinite(32, std::numeric_limits<float>::infinity()), huge(32, 1e30f);
    expect_error(ExitCode::kBadInput, {"w: value 70000", "f16", "bf16"},
                 [&] { encode(bytes, large, TensorType::kF16, "w"); });
    expect_error(ExitCode::kBadInput, {"w: value 1e+30", "q8_0"}, [&] { encode(bytes, huge, TensorType::kQ8_0, "w"); });
    for (const TensorType type : {TensorType::kF32, TensorType::kBF16, TensorType::kQ8_0})
        expect_error(ExitCode::kBadInput, {"w: a value is inf"}, [&] { encode(bytes, infinite, type, "w"); });
}

}  // namespace
}  // namespace plimsoll
