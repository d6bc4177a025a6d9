// AdamW and SGD against the algorithms of PyTorch's documentation, element by element in double; the sum of squares.
#include "kernels/optimizer.h"

#include <array>
#include <cmath>
#include <limits>

#include "kernels/cpu/avx512_bf16/adam_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/global_norm.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"
#include "tests/support/updates.h"

namespace plimsoll {
namespace {

constexpr int kSteps = 5;

template <class T>
struct State {
    int64_t count;
    std::vector<T> param = normals<T>(count, "param"), m = std::vector<T>(param.size()), v = m;
    std::vector<bf16> working = normals<bf16>(count, "working");
    // A different gradient in each step.
    std::vector<T> gradient(int step) const { return normals<T>(count, "gradient" + std::to_string(step)); }

    void adamw(AdamWSpec spec, int threads = 1) {
        for (int step = 1; step <= kSteps; ++step) {
            std::vector<T> grad = gradient(step);
            spec.step = step;
            adamw_step(view(param, {count}), view(m, {count}), view(v, {count}), view(grad, {count}),
                       view(working, {count}), spec, {.threads = threads});
        }
    }
    void sgd(SgdSpec spec, int threads = 1) {
        for (int step = 1; step <= kSteps; ++step) {
            std::vector<T> grad = gradient(step);
            spec.step = step;
            sgd_step(view(param, {count}), view(m, {count}), view(grad, {count}), view(working, {count}), spec,
                     {.threads = threads});
        }
    }
};

template <class T>
class OptimizerTest : public testing::Test {};
TYPED_TEST_SUITE(OptimizerTest, WideFloats);

// torch.optim.AdamW: theta <- theta - gamma lambda theta; m, v; mhat = m / (1 - beta1^t), vhat = v / (1 - beta2^t);
// theta <- theta - gamma mhat / (sqrt(vhat) + eps).
TYPED_TEST(OptimizerTest, AdamWFollowsPyTorch) {
    const AdamWSpec spec{
        .lr = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1, .gradient_scale = 0.3};
    for (const int64_t count : {1, 3, 17, 65, 1000}) {
        State<TypeParam> state{.count = count};
        std::vector<double> theta = widened(state.param), m(theta.size()), v(theta.size());
        for (int t = 1; t <= kSteps; ++t) {
            const std::vector<double> grad = widened(state.gradient(t));
            for (size_t i = 0; i < theta.size(); ++i) {
                const double g = 0.3 * grad[i];
                theta[i] -= 0.02 * 0.1 * theta[i];
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.95 * v[i] + 0.05 * g * g;
                const double m_hat = m[i] / (1 - std::pow(0.9, t)), v_hat = v[i] / (1 - std::pow(0.95, t));
                theta[i] -= 0.02 * m_hat / (std::sqrt(v_hat) + 1e-6);
            }
        }
        state.adamw(spec);
        expect_close(state.param, theta, 4 * kSteps, "param");  // a few roundings a step, of values of order 1
        expect_close(state.m, m, 4 * kSteps, "m");
        expect_close(state.v, v, 4 * kSteps, "v");
        for (size_t i = 0; i < theta.size(); ++i)
            EXPECT_EQ(state.working[i].bits, bf16(static_cast<float>(state.param[i])).bits) << i;
    }
}

// Working copies are the parameters rounded, where instructions that round would make zeros of them too.
TEST(AdamW, KeepsSubnormalAndInfiniteParametersInWorkingCopies) {
    State<float> state{.count = 70};
    const float odd[] = {1e-39f, -3e-40f, 1e-45f, std::numeric_limits<float>::infinity(), 0.0f, -1.17e-38f};
    for (size_t i = 0; i < state.param.size(); i += 3) state.param[i] = odd[i / 3 % std::size(odd)];
    const std::vector<float> start = state.param;
    state.adamw({.lr = 0});
    EXPECT_TRUE(same_bits(state.param, start));
    for (size_t i = 0; i < start.size(); ++i) EXPECT_EQ(state.working[i].bits, bf16(start[i]).bits) << start[i];
}

// Past the caches or not, from a line's begin on or not: the same bits, and none beside them.
TEST(AdamW, WritesTheSamePastTheCaches) {
    if (!cpu::avx512_bf16::available()) GTEST_SKIP() << "no AVX512_BF16 here";
    constexpr int64_t kCount = 1333;
    const cpu::AdamFactors<float> factors{.scale = 0.3f,
                                          .decay = 0.99f,
                                          .beta1 = 0.9f,
                                          .fresh1 = 0.1f,
                                          .beta2 = 0.95f,
                                          .fresh2 = 0.05f,
                                          .eps = 1e-8f,
                                          .step_size = 0.02f,
                                          .root_correction = 1.5f};
    const State<float> start{.count = kCount};
    const std::vector<float> grad = start.gradient(1);
    std::vector<bf16> expected;
    for (const bool streams : {false, true})
        for (const size_t offset : {0, 3, 32}) {
            State<float> state = start;
            std::ranges::transform(state.param, state.v.begin(), [](float x) { return x * x; });
            alignas(64) std::array<bf16, kCount + 64> memory{};
            cpu::avx512_bf16::adamw(state.param.data(), state.m.data(), state.v.data(), grad.data(),
                                    memory.data() + offset, kCount, factors, streams);
            const std::vector<bf16> working(memory.begin() + static_cast<std::ptrdiff_t>(offset),
                                            memory.begin() + static_cast<std::ptrdiff_t>(offset) + kCount);
            if (expected.empty()) expected = working;
            EXPECT_TRUE(same_bits(working, expected)) << streams << " " << offset;
            for (size_t i = 0; i < memory.size(); ++i)
                if (i < offset || i >= offset + kCount) EXPECT_EQ(memory[i].bits, 0) << i;
            for (size_t i = 0; i < working.size(); ++i) EXPECT_EQ(working[i].bits, bf16(state.param[i]).bits) << i;
        }
}

// Without a learning rate an update only rounds: to one of the two bf16 neighbours, by chance, and right on average.
TEST(StochasticRounding, IsRightOnAverageAndDependsOnNoCut) {
    constexpr int64_t kCount = 20000, kCut = 777;
    constexpr float kValue = 1.0f + 0.3f / 128;  // 0.3 of the way from 1 to the next bf16
    std::vector<float> param(kCount, kValue), m(param.size()), v(param.size()), grad(param.size());
    std::vector<bf16> whole(param.size()), cut(param.size()), other(param.size());
    const auto round = [&](std::vector<bf16>& to, int64_t begin, int64_t end, uint64_t step, int threads) {
        const auto part = [&](auto& values) { return view(values, {kCount}).slice_rows(begin, end - begin); };
        AdamWSpec spec;
        spec.rounding = {.stochastic = RandomStream(7, "rounding", "", step), .first = begin};
        adamw_step(part(param), part(m), part(v), part(grad), part(to), spec, {.threads = threads});
    };
    round(whole, 0, kCount, 1, 1);
    round(cut, 0, kCut, 1, 2), round(cut, kCut, kCount, 1, 3);
    round(other, 0, kCount, 2, 1);
    double up = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
        const float rounded = whole[i];
        EXPECT_TRUE(rounded == 1.0f || rounded == 1.0f + 1.0f / 128) << rounded;
        up += rounded > 1 ? 1.0 / kCount : 0.0;
        EXPECT_EQ(whole[i].bits, cut[i].bits) << i;
    }
    EXPECT_NEAR(up, 0.3, 0.015);  // 4.6 standard deviations of 20,000 draws
    EXPECT_FALSE(same_bits(whole, other));
    EXPECT_TRUE(std::isinf(static_cast<float>(round_stochastically(std::numeric_limits<float>::infinity(), ~0u))));
    EXPECT_TRUE(std::isnan(static_cast<float>(round_stochastically(std::nanf(""), ~0u))));
}

// torch.optim.SGD: g <- g + lambda theta; b = g at t = 1, else mu b + g; theta <- theta - gamma b.
TYPED_TEST(OptimizerTest, SgdFollowsPyTorch) {
    const SgdSpec spec{.lr = 0.02, .momentum = 0.9, .weight_decay = 0.1, .gradient_scale = 0.3};
    for (const int64_t count : {1, 3, 17, 65, 1000}) {
        State<TypeParam> state{.count = count};
        std::ranges::fill(state.m, std::numeric_limits<TypeParam>::quiet_NaN());  // step 1 must not read the buffer
        std::vector<double> theta = widened(state.param), b(theta.size());
        for (int t = 1; t <= kSteps; ++t) {
            const std::vector<double> grad = widened(state.gradient(t));
            for (size_t i = 0; i < theta.size(); ++i) {
                const double g = 0.3 * grad[i] + 0.1 * theta[i];
                b[i] = t == 1 ? g : 0.9 * b[i] + g;
                theta[i] -= 0.02 * b[i];
            }
        }
        state.sgd(spec);
        expect_close(state.param, theta, 4 * kSteps, "param");
        expect_close(state.m, b, 4 * kSteps, "buffer");
        for (size_t i = 0; i < theta.size(); ++i)
            EXPECT_EQ(state.working[i].bits, bf16(static_cast<float>(state.param[i])).bits) << i;
    }
}

TYPED_TEST(OptimizerTest, BitsDoNotDependOnThreads) {
    const State<TypeParam> start{.count = 50001};
    State<TypeParam> adamw = start, sgd = start;
    adamw.adamw({.lr = 0.1, .weight_decay = 0.1}), sgd.sgd({.lr = 0.1, .weight_decay = 0.1});
    for (const int threads : {1, 2, 3}) {
        State<TypeParam> one = start, other = start;
        one.adamw({.lr = 0.1, .weight_decay = 0.1}, threads), other.sgd({.lr = 0.1, .weight_decay = 0.1}, threads);
        EXPECT_TRUE(same_bits(adamw.param, one.param) && same_bits(adamw.m, one.m) && same_bits(adamw.v, one.v) &&
                    same_bits(adamw.working, one.working))
            << threads;
        EXPECT_TRUE(same_bits(sgd.param, other.param) && same_bits(sgd.m, other.m)) << threads;
    }
}

// A rank that owns a part of the parameters makes the bits that one rank with all of them makes.
TYPED_TEST(OptimizerTest, BitsDoNotDependOnWhereASpanIsCut) {
    State<TypeParam> whole{.count = 1003}, parts = whole;
    std::vector<TypeParam> grad = whole.gradient(1);
    const AdamWSpec spec{.lr = 0.1, .weight_decay = 0.1};
    adamw_step(view(whole.param, {1003}), view(whole.m, {1003}), view(whole.v, {1003}), view(grad, {1003}), {}, spec,
               {});
    for (const auto& [begin, count] : {std::pair<int64_t, int64_t>{0, 5}, {5, 490}, {495, 508}}) {
        const auto part = [&](std::vector<TypeParam>& values) { return view(values, {1003}).slice_rows(begin, count); };
        adamw_step(part(parts.param), part(parts.m), part(parts.v), part(grad), {}, spec, {});
    }
    EXPECT_TRUE(same_bits(whole.param, parts.param) && same_bits(whole.m, parts.m) && same_bits(whole.v, parts.v));
}

TYPED_TEST(OptimizerTest, SumOfSquaresIsTheSameOnEveryThreadCount) {
    for (const int64_t count :
         {int64_t{1}, int64_t{3}, int64_t{65}, kNormBlock - 1, kNormBlock, kNormBlock + 1, 3 * kNormBlock + 17}) {
        std::vector<TypeParam> x = normals<TypeParam>(count, "x");
        long double expected = 0;
        for (const TypeParam value : x) expected += static_cast<long double>(value) * static_cast<long double>(value);
        const double sum = sum_of_squares(view(x, {count}), {});
        // Positive terms in fp64: one rounding for each of the 2048 additions of a lane, few of them in one direction.
        EXPECT_NEAR(sum, static_cast<double>(expected), static_cast<double>(expected) * 1e-14) << count;
        for (const int threads : {1, 2, 3})
            EXPECT_EQ(sum_of_squares(view(x, {count}), {.threads = threads}), sum) << count;
        x[static_cast<size_t>(count / 2)] = std::numeric_limits<TypeParam>::infinity();
        EXPECT_TRUE(std::isinf(sum_of_squares(view(x, {count}), {})));
        x.back() = std::numeric_limits<TypeParam>::quiet_NaN();
        EXPECT_TRUE(std::isnan(sum_of_squares(view(x, {count}), {})));
    }
    std::vector<TypeParam> huge(40, TypeParam(1e30));  // squares beyond fp32
    EXPECT_NEAR(sum_of_squares(view(huge, {40}), {}) / 40e60, 1, 1e-6);
    EXPECT_EQ(sum_of_squares(Tensor(huge.data(), kDTypeOf<TypeParam>, {0}), {}), 0);
}

TEST(Optimizer, MismatchedShapesAndStepsAreRefused) {
    std::vector<float> a(6), b(6), c(6), d(6);
    std::vector<double> wide(6);
    const auto adamw = [&](Tensor v, Tensor grad, Tensor working, int64_t step) {
        adamw_step(view(a, {6}), view(b, {6}), v, grad, working, {.lr = 0.1, .step = step}, {});
    };
    EXPECT_NO_THROW(adamw(view(c, {6}), view(d, {6}), {}, 1));
    EXPECT_THROW(adamw(view(c, {5}), view(d, {6}), {}, 1), Error);
    EXPECT_THROW(adamw(view(c, {6}), view(wide, {6}), {}, 1), Error);
    EXPECT_THROW(adamw(view(c, {6}), view(d, {6}), view(c, {6}), 1), Error);
    EXPECT_THROW(adamw(view(c, {6}), view(d, {6}), {}, 0), Error);
    EXPECT_THROW(sgd_step(view(a, {2, 3}), view(b, {2, 3}), view(c, {2, 3}), {}, SgdSpec{}, {}), Error);
    EXPECT_THROW(sum_of_squares(view(a, {2, 3}), {}), Error);
}

}  // namespace
}  // namespace plimsoll
