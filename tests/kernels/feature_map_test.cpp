#include "kernels/feature_map.h"

#include <gtest/gtest.h>

#include <cmath>

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
    elu1_backward(run.narrow(run.dx), run.narrow(run.dout), run.wide(), {});
    std::vector<double> out, dx;
    const std::vector<double> dout = widened(run.dout);
    for (size_t i = 0; i < run.out.size(); ++i) {
        const double x = run.input(i);
        out.push_back(x > 0 ? x + 1 : std::exp(x));
        dx.push_back(dout[i] * (x > 0 ? 1 : std::exp(x)));
    }
    expect_close(run.out, out, 4, "out");  // an exponential of 2 ulp, a product
    expect_close(run.dx, dx, 4, "dx");
}

TEST(FeatureMap, EluPlusOnesGradientMatchesCentralDifferences) {
    Elu1Run<double> run(3);
    run.x[kHS] = 0.5, run.x[kHS + 2] = 1.5;  // away from the kink, and from where a step is below a rounding
    elu1_backward(run.narrow(run.dx), run.narrow(run.dout), run.wide(), {});
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
    elu1_backward(one.narrow(one.dx), one.narrow(one.dout), one.wide(), {.threads = 1});
    elu1_backward(three.narrow(three.dout), three.narrow(three.dout), three.wide(), {.threads = 3});
    EXPECT_TRUE(same_bits(one.dx, three.dout));
}

TEST(FeatureMap, WrongShapesAreRefused) {
    Elu1Run<float> run(4);
    EXPECT_THROW(elu1_forward(run.narrow(run.out).slice_rows(0, 2), run.wide(), {}), Error);
    EXPECT_THROW(elu1_backward(run.narrow(run.dx), run.narrow(run.dout).slice_columns(0, 2), run.wide(), {}), Error);
}

}  // namespace
}  // namespace plimsoll
