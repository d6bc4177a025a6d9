#include "kernels/feature_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kAll = 5, kFirst = 1, kH = 3, kHS = 7;  // heads kFirst .. of wider rows

template <class T>
struct Elu1Run {
    int64_t N;
    std::vector<T> x, dout, out, dx;
    explicit Elu1Run(int64_t N) : N(N) {
        x = normals<T>(N * kAll * kHS, "x", 2), dout = normals<T>(N * kH * kHS, "dout");
        out.resize(dout.size()), dx.resize(dout.size());
        x[kHS] = T(0.0f), x[kHS + 1] = T(-80.0f), x[kHS + 2] = T(1e4f);
    }
    Tensor wide() { return view(x, {N, kAll, kHS}).slice_columns(kFirst, kH); }
    Tensor narrow(std::vector<T>& t) { return view(t, {N, kH, kHS}); }
    double input(size_t i) const {  // of narrow element i
        const size_t row = i / (kH * kHS);
        return widened(std::vector<T>{x[(row * kAll + kFirst) * kHS + i % (kH * kHS)]})[0];
    }
};

template <class T>
class FeatureMapTest : public testing::Test {};
TYPED_TEST_SUITE(FeatureMapTest, AllFloats);

TYPED_TEST(FeatureMapTest, EluPlusOneOfSlicesOfRows) {
    Elu1Run<TypeParam> run(4);
    elu1_forward(run.narrow(run.out), run.wide(), {});
    elu1_backward(run.narrow(run.dx), run.narrow(run.dout), run.narrow(run.out), {});
    std::vector<double> out, dx;
    const std::vector<double> dout = widened(run.dout), made = widened(run.out);
    for (size_t i = 0; i < run.out.size(); ++i) {
        const double x = run.input(i);
        out.push_back(x > 0 ? x + 1 : std::exp(x));
        dx.push_back(dout[i] * std::min(made[i], 1.0));
    }
    expect_close(run.out, out, 4, "out");  // an exponential of 2 ulp
    expect_close(run.dx, dx, 1, "dx");     // a product
    elu1_forward(run.wide(), run.wide(), {});
    const std::vector<double> apart = widened(run.out);
    for (size_t i = 0; i < apart.size(); ++i) EXPECT_EQ(run.input(i), apart[i]) << "in place, element " << i;
}

TYPED_TEST(FeatureMapTest, EluPlusOneFarFromZero) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> inputs{-kInfinity, -1e30f, -1000, -85, 1e30f, kInfinity, kNaN};
    const int64_t count = static_cast<int64_t>(inputs.size());
    std::vector<TypeParam> x, dout(inputs.size(), TypeParam(2.0f)), out(inputs.size()), dx(inputs.size());
    for (const float input : inputs) x.push_back(TypeParam(input));
    const auto row = [&](std::vector<TypeParam>& of) { return view(of, {1, 1, count}); };
    elu1_forward(row(out), row(x), {});
    elu1_backward(row(dx), row(dout), row(out), {});
    const std::vector<double> made = widened(out), slopes = widened(dx), read = widened(x);
    for (size_t i = 0; i < 6; ++i) {
        SCOPED_TRACE(inputs[i]);
        // 4 of bf16's roundings; for fp32 and fp64 the test of slices is as strict as they are.
        const double expected = read[i] > 0 ? read[i] + 1 : std::exp(read[i]), slope = read[i] > 0 ? 2 : 2 * expected;
        if (std::isinf(expected)) {
            EXPECT_EQ(made[i], expected);
        } else {
            EXPECT_NEAR(made[i], expected, 0.016 * expected);
        }
        EXPECT_NEAR(slopes[i], slope, 0.016 * slope);
    }
    EXPECT_TRUE(std::isnan(made[6]) && std::isnan(slopes[6]));
}

TEST(FeatureMap, EluPlusOnesGradientMatchesCentralDifferences) {
    Elu1Run<double> run(3);
    run.x[kHS] = 0.5, run.x[kHS + 2] = 1.5;  // away from the kink, and from where a step is below a rounding
    elu1_forward(run.narrow(run.out), run.wide(), {});
    elu1_backward(run.narrow(run.dx), run.narrow(run.dout), run.narrow(run.out), {});
    std::vector<double> whole(run.x.size());
    for (size_t i = 0; i < run.dx.size(); ++i)
        whole[(i / (kH * kHS) * kAll + kFirst) * kHS + i % (kH * kHS)] = run.dx[i];
    expect_gradient(
        run.x, whole,
        [&] {
            elu1_forward(run.narrow(run.out), run.wide(), {});
            return dot(run.out, run.dout);
        },
        "x");
}

TYPED_TEST(FeatureMapTest, BitsDoNotDependOnThreadsNorOnPlace) {
    Elu1Run<TypeParam> one(1203), three(1203);
    elu1_forward(one.narrow(one.out), one.wide(), {.threads = 1});
    elu1_forward(three.narrow(three.out), three.wide(), {.threads = 3});
    EXPECT_TRUE(same_bits(one.out, three.out));
    elu1_backward(one.narrow(one.dx), one.narrow(one.dout), one.narrow(one.out), {.threads = 1});
    elu1_backward(three.narrow(three.dout), three.narrow(three.dout), three.narrow(three.out), {.threads = 3});
    EXPECT_TRUE(same_bits(one.dx, three.dout));
}

TEST(FeatureMap, WrongShapesAreRefused) {
    Elu1Run<float> run(4);
    EXPECT_THROW(elu1_forward(run.narrow(run.out).slice_rows(0, 2), run.wide(), {}), Error);
    EXPECT_THROW(elu1_backward(run.narrow(run.dx), run.narrow(run.dout).slice_columns(0, 2), run.wide(), {}), Error);
}

}  // namespace
}  // namespace plimsoll
