#include "kernels/key_bias.h"

#include <gtest/gtest.h>

#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kNH = 6, kNKV = 2, kHS = 7;

template <class T>
struct KeyBiasRun {
    using R = Accumulator<T>;
    int64_t N;
    std::vector<T> v, dv;
    std::vector<R> w, dw, bias, dbias;

    explicit KeyBiasRun(int64_t N = 11) : N(N) {
        v = normals<T>(N * kNKV * kHS, "v"), dv = normals<T>(N * kNKV * kHS, "dv");
        w = normals<R>(kNH * kHS, "w"), dw = normals<R>(kNH * kHS, "dw");
        dbias = normals<R>(N * kNH, "dbias"), bias.resize(dbias.size());
    }
    Tensor values(std::vector<T>& of) { return view(of, {N, kNKV, kHS}); }
    Tensor weights(std::vector<R>& of) { return view(of, {kNH, kHS}); }
    Tensor biases(std::vector<R>& of) { return view(of, {N, kNH}); }
    void forward(int threads = 1) { key_bias_forward(biases(bias), values(v), weights(w), {.threads = threads}); }
    void backward(Write write, int threads = 1) {
        key_bias_backward(values(dv), weights(dw), biases(dbias), values(v), weights(w), write, {.threads = threads});
    }
};

template <class T>
class KeyBiasTest : public testing::Test {};
TYPED_TEST_SUITE(KeyBiasTest, AllFloats);

// Sums of seven products of order one.
TYPED_TEST(KeyBiasTest, IsTheProductOfTheHeadsWeightsAndTheValueOfItsKeyHead) {
    KeyBiasRun<TypeParam> run;
    run.forward();
    const std::vector<double> v = widened(run.v), w = widened(run.w);
    std::vector<double> wanted(run.bias.size());
    for (size_t n = 0; n < static_cast<size_t>(run.N); ++n)
        for (size_t h = 0; h < kNH; ++h)
            for (size_t c = 0; c < kHS; ++c) wanted[n * kNH + h] += w[h * kHS + c] * v[(n * kNKV + h / 3) * kHS + c];
    expect_close(run.bias, wanted, 30, "bias", 4);
}

TEST(KeyBias, GradientsMatchCentralDifferencesAndAreAdded) {
    KeyBiasRun<double> run;
    const std::vector<double> dv = run.dv, dw = run.dw;
    run.backward(Write::kAccumulate);
    for (size_t i = 0; i < dv.size(); ++i) run.dv[i] -= dv[i];
    for (size_t i = 0; i < dw.size(); ++i) run.dw[i] -= dw[i];
    const auto loss = [&] {
        run.forward();
        return dot(run.bias, run.dbias);
    };
    expect_gradient(run.v, run.dv, loss, "v");
    expect_gradient(run.w, run.dw, loss, "w");
    const std::vector<double> once = run.dw;
    run.backward(Write::kOverwrite);
    for (size_t i = 0; i < once.size(); ++i) EXPECT_NEAR(run.dw[i], once[i], 1e-12);
}

TYPED_TEST(KeyBiasTest, BitsDoNotDependOnThreads) {
    KeyBiasRun<TypeParam> one(1203), three(1203);
    one.forward(1), three.forward(3);
    one.backward(Write::kOverwrite, 1), three.backward(Write::kOverwrite, 3);
    EXPECT_TRUE(same_bits(one.bias, three.bias) && same_bits(one.dv, three.dv) && same_bits(one.dw, three.dw));
}

TEST(KeyBias, ShapesThatDisagreeAreNamed) {
    KeyBiasRun<float> run;
    const auto message = [&](Tensor bias, Tensor w) {
        try {
            key_bias_forward(bias, run.values(run.v), w, {});
        } catch (const Error& error) {
            return std::string(error.what());
        }
        return std::string("no error");
    };
    EXPECT_NE(message(run.biases(run.bias), view(run.w, {3, 14})).find("NH a multiple of NKV"), std::string::npos);
    EXPECT_NE(message(view(run.bias, {kNH, run.N}), run.weights(run.w)).find("must be (6, 7) and (11, 6) in fp32"),
              std::string::npos)
        << message(view(run.bias, {kNH, run.N}), run.weights(run.w));
}

}  // namespace
}  // namespace plimsoll
