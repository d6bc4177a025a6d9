// Rotary position embedding against the formula in double.
#include "kernels/rope.h"

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

// x (N, H, HS) rotated as the header says.
std::vector<double> rotated(std::vector<double> x, const std::vector<int32_t>& positions, size_t H, size_t HS,
                            double theta) {
    for (size_t row = 0; row < positions.size() * H; ++row)
        for (size_t c = 0; c < HS / 2; ++c) {
            const double angle =
                positions[row / H] * std::pow(theta, -2.0 * static_cast<double>(c) / static_cast<double>(HS));
            double &a = x[row * HS + c], &b = x[row * HS + c + HS / 2];
            const double kept = a;
            a = kept * std::cos(angle) - b * std::sin(angle);
            b = kept * std::sin(angle) + b * std::cos(angle);
        }
    return x;
}

template <class T>
class RopeTest : public testing::Test {};
TYPED_TEST_SUITE(RopeTest, AllFloats);

TYPED_TEST(RopeTest, FollowsTheFormulaForEverySizeThetaAndPosition) {
    const std::vector<int32_t> positions{0, 1, 7, 3, 3, 1000, 299};
    for (const int64_t HS : {2, 6, 64})
        for (const double theta : {10000.0, 500.0})
            for (const int64_t H : {1, 3}) {
                std::vector<TypeParam> x = normals<TypeParam>(7 * H * HS, "x");
                const std::vector<double> expected =
                    rotated(widened(x), positions, static_cast<size_t>(H), static_cast<size_t>(HS), theta);
                rope_forward(view(x, {7, H, HS}), positions, theta, {});
                // Sine and cosine are rounded once, then two products and a sum, of values up to 4.
                expect_close(x, expected, 4, "x", 4);
            }
}

TYPED_TEST(RopeTest, BackwardUndoesForward) {
    std::vector<TypeParam> x = normals<TypeParam>(5 * 2 * 6, "x");
    const std::vector<double> start = widened(x);
    const std::vector<int32_t> positions{4, 0, 19, 2, 300};
    rope_forward(view(x, {5, 2, 6}), positions, 10000, {});
    rope_backward(view(x, {5, 2, 6}), positions, 10000, {});
    // Two rotations; in bf16 the first one's storage error (2^-8 of a pair's length, below 4) comes back rotated.
    const double storage = std::is_same_v<TypeParam, bf16> ? 2 * 4 * 0x1p-8 : 0;
    for (size_t i = 0; i < x.size(); ++i)
        EXPECT_NEAR(static_cast<double>(static_cast<Accumulator<TypeParam>>(x[i])), start[i],
                    12 * kRounding<TypeParam> * 4 + storage);
}

TYPED_TEST(RopeTest, FrequenciesMayBeGiven) {
    const std::vector<int32_t> positions{4, 0, 19, 2, 300}, doubled{8, 0, 38, 4, 600};
    std::vector<TypeParam> x = normals<TypeParam>(5 * 2 * 6, "x"), trained = x, halved = x;
    rope_forward(view(x, {5, 2, 6}), positions, 100, {});
    std::vector<double> frequencies = rope_frequencies(100, 6);
    rope_forward(view(trained, {5, 2, 6}), positions, frequencies, {});
    EXPECT_TRUE(same_bits(x, trained));
    for (double& frequency : frequencies) frequency /= 2;
    rope_forward(view(halved, {5, 2, 6}), doubled, frequencies, {});
    EXPECT_TRUE(same_bits(x, halved));
    frequencies.pop_back();
    EXPECT_THROW(rope_forward(view(x, {5, 2, 6}), positions, frequencies, {}), Error);
}

TYPED_TEST(RopeTest, RowsMayBeAPartOfAProjection) {
    std::vector<TypeParam> fused = normals<TypeParam>(3 * 5 * 6, "fused"), part;
    const std::vector<TypeParam> start = fused;
    for (size_t n = 0; n < 3; ++n) part.insert(part.end(), &fused[n * 30 + 6], &fused[n * 30 + 18]);
    const std::vector<int32_t> positions{5, 2, 9};
    rope_forward(view(fused, {3, 5, 6}).slice_columns(1, 2), positions, 10000, {});
    rope_forward(view(part, {3, 2, 6}), positions, 10000, {});
    for (size_t i = 0; i < fused.size(); ++i) {
        const size_t n = i / 30, c = i % 30;
        const TypeParam expected = c >= 6 && c < 18 ? part[n * 12 + c - 6] : start[i];
        EXPECT_EQ(static_cast<double>(fused[i]), static_cast<double>(expected)) << i;
    }
}

TYPED_TEST(RopeTest, BitsDoNotDependOnThreads) {
    std::vector<int32_t> positions(401);
    for (size_t n = 0; n < positions.size(); ++n) positions[n] = static_cast<int32_t>(n % 130);
    std::vector<TypeParam> one = normals<TypeParam>(401 * 7 * 6, "x");
    const std::vector<TypeParam> start = one;
    rope_forward(view(one, {401, 7, 6}), positions, 10000, {.threads = 1});
    for (const int threads : {1, 2, 3}) {
        std::vector<TypeParam> many = start;
        rope_forward(view(many, {401, 7, 6}), positions, 10000, {.threads = threads});
        EXPECT_TRUE(same_bits(one, many)) << threads;
    }
}

TEST(Rope, BackwardMatchesCentralDifferences) {
    const std::vector<int32_t> positions{3, 11};
    std::vector<double> x = normals<double>(2 * 2 * 6, "x"), dout = normals<double>(2 * 2 * 6, "dout"), dx = dout;
    rope_backward(view(dx, {2, 2, 6}), positions, 10000, {});
    expect_gradient(
        x, dx,
        [&] {
            std::vector<double> out = x;
            rope_forward(view(out, {2, 2, 6}), positions, 10000, {});
            return dot(out, dout);
        },
        "x");
}

TEST(Rope, OddHeadsAndWrongPositionsAreRefused) {
    std::vector<float> x(2 * 6);
    const std::vector<int32_t> positions{0, 1}, negative{0, -1};
    EXPECT_THROW(rope_forward(view(x, {2, 2, 3}), positions, 10000, {}), Error);
    EXPECT_THROW(rope_forward(view(x, {1, 2, 6}), positions, 10000, {}), Error);
    EXPECT_THROW(rope_backward(view(x, {2, 6}), positions, 10000, {}), Error);
    EXPECT_THROW(rope_backward(view(x, {2, 1, 6}), negative, 10000, {}), Error);
    EXPECT_NO_THROW(rope_forward(view(x, {2, 1, 6}), positions, 10000, {}));
    EXPECT_NO_THROW(rope_forward(Tensor(x.data(), DType::kF32, {0, 1, 6}), {}, 10000, {}));
}

}  // namespace
}  // namespace plimsoll
