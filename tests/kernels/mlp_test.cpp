// Activations against the formulas in double, and the accuracy of the exp behind them.
#include "kernels/mlp.h"

#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "kernels/cpu/vector_math.h"
#include "kernels/matmul.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

constexpr Activation kKinds[] = {Activation::kRelu, Activation::kGelu, Activation::kSwiglu};

// out (N, F) of x by the formulas of the header.
std::vector<double> activated(const std::vector<double>& x, size_t F, Activation kind) {
    const auto inputs = static_cast<size_t>(inputs_per_output(kind));
    std::vector<double> out;
    for (size_t row = 0; row < x.size(); row += inputs * F)
        for (size_t c = 0; c < F; ++c) {
            const double a = x[row + c];
            switch (kind) {
                case Activation::kRelu:
                    out.push_back(std::max(a, 0.0));
                    break;
                case Activation::kGelu:
                    out.push_back(0.5 * a *
                                  (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (a + 0.044715 * a * a * a))));
                    break;
                case Activation::kSwiglu:
                    out.push_back(a / (1 + std::exp(-a)) * x[row + F + c]);
                    break;
            }
        }
    return out;
}

template <class T>
struct Pass {
    Activation kind;
    int64_t N, F;
    int64_t inputs = inputs_per_output(kind) * F;
    std::vector<T> x = normals<T>(N * inputs, "x", 2), dout = normals<T>(N * F, "dout");
    std::vector<T> dx = x, out = dout;

    void forward(int threads = 1) {
        activation_forward(view(out, {N, F}), view(x, {N, inputs}), kind, {.threads = threads});
    }
    void backward(int threads = 1) {
        activation_backward(view(dx, {N, inputs}), view(dout, {N, F}), view(x, {N, inputs}), kind,
                            {.threads = threads});
    }
};

template <class T>
class MlpTest : public testing::Test {};
TYPED_TEST_SUITE(MlpTest, AllFloats);

TYPED_TEST(MlpTest, FollowsTheFormulas) {
    for (const Activation kind : kKinds)
        for (const int64_t F : {1, 3, 17, 65}) {
            Pass<TypeParam> run{.kind = kind, .N = 5, .F = F};
            const std::vector<double> x = widened(run.x), dout = widened(run.dout);
            run.forward();
            // exp to 2 ulp of an argument up to 60 that is rounded itself, where its factor is small; values up to 8
            // times 8.
            expect_close(run.out, activated(x, static_cast<size_t>(F), kind), 10, "out", 8);
            run.backward();
            // The slope by central differences of the formula: 1e-9 of error, below fp32's and stated for fp64.
            std::vector<double> dx(x.size());
            for (size_t i = 0; i < x.size(); ++i) {
                std::vector<double> above = x, below = x;
                above[i] += 1e-5, below[i] -= 1e-5;
                const size_t inputs = static_cast<size_t>(run.inputs), row = i / inputs,
                             c = i % inputs % static_cast<size_t>(F);
                const size_t o = row * static_cast<size_t>(F) + c;
                dx[i] = dout[o] *
                        (activated(above, static_cast<size_t>(F), kind)[o] -
                         activated(below, static_cast<size_t>(F), kind)[o]) /
                        2e-5;
            }
            const double differences = 1e-8 / kRounding<TypeParam>;
            expect_close(run.dx, dx, std::is_same_v<TypeParam, double> ? differences : 30, "dx", 8);
        }
}

TYPED_TEST(MlpTest, GradientMayReplaceItsInputAndBitsDoNotDependOnThreads) {
    for (const Activation kind : kKinds) {
        Pass<TypeParam> one{.kind = kind, .N = 131, .F = 129}, over = one;
        const Pass<TypeParam> start = one;
        one.forward(), one.backward();
        activation_backward(view(over.x, {131, over.inputs}), view(over.dout, {131, 129}),
                            view(over.x, {131, over.inputs}), kind, {.threads = 2});
        EXPECT_TRUE(same_bits(over.x, one.dx));
        for (const int threads : {1, 2, 3}) {
            Pass<TypeParam> many = start;
            many.forward(threads), many.backward(threads);
            EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.dx, many.dx)) << threads;
        }
    }
}

// ReLU where its input was, alone and behind a product, and its gradient from its output: for products that are fused
// with it, and some that are not whole blocks.
TYPED_TEST(MlpTest, ReluMayReplaceItsInput) {
    using T = TypeParam;
    using R = Accumulator<T>;
    constexpr Activation kRelu = Activation::kRelu;
    for (const auto& [N, I, F] : {std::array<int64_t, 3>{64, 64, 64}, {71, 40, 33}, {1, 8, 5}}) {
        Pass<T> apart{.kind = kRelu, .N = N, .F = F}, over = apart;
        apart.forward(), apart.backward();
        activation_forward(view(over.x, {N, F}), view(over.x, {N, F}), kRelu, {});
        over.backward();
        EXPECT_TRUE(same_bits(over.x, apart.out) && same_bits(over.dx, apart.dx));

        auto x = normals<T>(N * I, "x"), weight = normals<T>(F * I, "weight"), down = normals<T>(I * F, "down");
        std::vector<R> bias = normals<R>(F, "bias");
        for (const int threads : {1, 2}) {
            std::vector<T> up(static_cast<size_t>(N * F)), act = up, both = up, dup = up, dup_of_both = up;
            const auto forward = [&](std::vector<T>& to, std::vector<T>& before) {
                matmul_activation_forward(view(to, {N, F}), view(before, {N, F}), view(x, {N, I}), view(weight, {F, I}),
                                          view(bias, {F}), kRelu, {.threads = threads});
            };
            const auto backward = [&](std::vector<T>& to, std::vector<T>& from) {
                matmul_activation_backward(view(to, {N, F}), view(to, {N, F}), view(x, {N, I}), view(down, {I, F}),
                                           view(from, {N, F}), kRelu, {.threads = threads});
            };
            forward(act, up), forward(both, both);
            EXPECT_TRUE(same_bits(both, act));
            backward(dup, up), backward(dup_of_both, both);
            EXPECT_TRUE(same_bits(dup_of_both, dup));
            matmul_activation_backward(view(both, {N, F}), view(act, {N, F}), view(x, {N, I}), view(down, {I, F}),
                                       view(both, {N, F}), kRelu, {.threads = threads});
            EXPECT_TRUE(same_bits(both, dup));
        }
    }
}

TYPED_TEST(MlpTest, LargeInputsAndZerosStayFinite) {
    for (const Activation kind : kKinds) {
        std::vector<TypeParam> x;
        for (const float value : {0.0f, -0.0f, 1e-30f, 9.0f, -9.0f, 30.0f, -30.0f, 100.0f, -100.0f, 1e4f, -1e4f, 1e12f,
                                  -1e12f, 1e18f, -1e18f, 1.0f})
            x.push_back(TypeParam(value));
        const auto F = static_cast<int64_t>(x.size()) / inputs_per_output(kind);
        const std::vector<double> expected = activated(widened(x), static_cast<size_t>(F), kind);
        std::vector<TypeParam> out(static_cast<size_t>(F)), dout(static_cast<size_t>(F), TypeParam(1.0f)), dx = x;
        activation_forward(view(out, {1, F}), view(x, {1, static_cast<int64_t>(x.size())}), kind, {});
        activation_backward(view(dx, {1, static_cast<int64_t>(x.size())}), view(dout, {1, F}),
                            view(x, {1, static_cast<int64_t>(x.size())}), kind, {});
        expect_close(out, expected, 10, "out");
        for (const TypeParam value : dx) EXPECT_TRUE(std::isfinite(static_cast<double>(value)));
    }
}

// Those of bf16 take vectors of elements, in halves of even and odd ones, and what is left over.
TEST(Mlp, BitsOfAnElementDoNotDependOnItsPlaceAndNaNsStay) {
    constexpr int64_t F = 101;
    for (const Activation kind : kKinds) {
        Pass<bf16> row{.kind = kind, .N = 1, .F = F};
        row.x[7] = row.x[64] = bf16(std::numeric_limits<float>::quiet_NaN());
        row.forward(), row.backward();
        for (int64_t c = 0; c < F; ++c) {
            Pass<bf16> alone{.kind = kind, .N = 1, .F = 1};
            for (int64_t i = 0; i < inputs_per_output(kind); ++i) alone.x[i] = row.x[i * F + c];
            alone.dout[0] = row.dout[c];
            alone.forward(), alone.backward();
            const bool nan = kind != Activation::kRelu && (c == 7 || c == 64);
            EXPECT_EQ(std::isnan(static_cast<double>(row.out[c])), nan) << c;
            EXPECT_EQ(std::isnan(static_cast<double>(row.dx[c])), nan) << c;
            if (nan) continue;
            EXPECT_TRUE(same_bits(alone.out, std::vector{row.out[c]})) << c;
            for (int64_t i = 0; i < inputs_per_output(kind); ++i)
                EXPECT_TRUE(same_bits(std::vector{alone.dx[i]}, std::vector{row.dx[i * F + c]})) << c;
        }
    }
}

TEST(Mlp, BackwardMatchesCentralDifferences) {
    for (const Activation kind : kKinds) {
        Pass<double> run{.kind = kind, .N = 3, .F = 17};
        run.backward();
        expect_gradient(
            run.x, run.dx, [&] { return run.forward(), dot(run.out, run.dout); }, "x");
    }
}

TEST(Mlp, MismatchedShapesAreRefused) {
    std::vector<float> x(12), out(12);
    EXPECT_NO_THROW(activation_forward(view(out, {2, 3}), view(x, {2, 6}), Activation::kSwiglu, {}));
    EXPECT_THROW(activation_forward(view(out, {2, 3}), view(x, {2, 6}), Activation::kGelu, {}), Error);
    EXPECT_THROW(activation_forward(view(out, {2, 6}), view(x, {2, 6}), Activation::kSwiglu, {}), Error);
    EXPECT_THROW(activation_backward(view(x, {2, 3}), view(out, {2, 3}), view(x, {2, 6}), Activation::kSwiglu, {}),
                 Error);
    std::vector<float> weight(9);
    const Tensor square = view(x, {2, 3}), other = view(out, {2, 3}), w = view(weight, {3, 3});
    EXPECT_NO_THROW(matmul_activation_forward(square, square, other, w, {}, Activation::kRelu, {}));
    EXPECT_THROW(matmul_activation_forward(square, square, other, w, {}, Activation::kGelu, {}), Error);
    EXPECT_THROW(activation_forward(view(out, {2, 4}).slice_columns(0, 2), view(x, {2, 2}), Activation::kRelu, {}),
                 Error);
}

// The largest error of f over [low, high] in units of the last place of the exact result.
template <class Fast, class Exact>
double worst_ulp(float low, float high, Fast fast, Exact exact) {
    double worst = 0;
    for (int i = 0; i <= 1000000; ++i) {
        const float x = low + (high - low) * (static_cast<float>(i) / 1e6f);
        const double wanted = exact(static_cast<double>(x));
        const double ulp = std::ldexp(1.0, std::ilogb(wanted) - 23);
        if (wanted != 0) worst = std::max(worst, std::abs(static_cast<double>(fast(x)) - wanted) / ulp);
    }
    return worst;
}

TEST(VectorMath, ExpIsAccurateToTwoUlp) {
    const auto fast = [](float x) { return cpu::exp_fast(x); };
    const auto exact = [](double x) { return std::exp(x); };
    EXPECT_LT(worst_ulp(-87.3f, 88.3f, fast, exact), 2.0);
    EXPECT_LT(worst_ulp(-1.0f, 1.0f, fast, exact), 2.0);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(cpu::exp_fast(0.0f), 1.0f);
    EXPECT_EQ(cpu::exp_fast(-kInfinity), 0.0f);
    EXPECT_EQ(cpu::exp_fast(-1e30f), 0.0f);
    EXPECT_EQ(cpu::exp_fast(-87.4f), 0.0f);
    EXPECT_EQ(cpu::exp_fast(88.4f), kInfinity);
    EXPECT_EQ(cpu::exp_fast(kInfinity), kInfinity);
    EXPECT_TRUE(std::isnan(cpu::exp_fast(std::numeric_limits<float>::quiet_NaN())));
}

}  // namespace
}  // namespace plimsoll
