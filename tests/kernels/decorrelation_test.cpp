// Decorrelation from documents' first tokens against its formula in double.
#include "kernels/decorrelation.h"

#include "kernels/error.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr double kScale = 0.3;

// Documents of 1, 5, 2 and then as many tokens as are left.
std::vector<int32_t> positions_of(int64_t N) {
    std::vector<int32_t> positions;
    int32_t begin = 0;
    for (int32_t n = 0; n < N; ++n) {
        if (n == 1 || n == 6 || n == 8) begin = n;
        positions.push_back(n - begin);
    }
    return positions;
}

// kScale * sum_n cos(h_n, first_n)^2, with the first tokens' vectors taken from elsewhere: no gradient goes to them.
double oracle(const std::vector<double>& h, const std::vector<double>& firsts, const std::vector<int32_t>& positions,
              int64_t C) {
    double sum = 0;
    for (size_t n = 0; n < positions.size(); ++n) {
        if (positions[n] == 0) continue;
        const size_t row = n * static_cast<size_t>(C),
                     first = (n - static_cast<size_t>(positions[n])) * static_cast<size_t>(C);
        double own = 0, others = 0, both = 0;
        for (size_t c = 0; c < static_cast<size_t>(C); ++c) {
            own += h[row + c] * h[row + c], others += firsts[first + c] * firsts[first + c];
            both += h[row + c] * firsts[first + c];
        }
        if (own > 0 && others > 0) sum += both * both / (own * others);
    }
    return kScale * sum;
}

template <class R>
class DecorrelationTest : public testing::Test {};
TYPED_TEST_SUITE(DecorrelationTest, WideFloats);

TYPED_TEST(DecorrelationTest, AddsTheGradientAndTheSum) {
    using R = TypeParam;
    for (const auto& [N, C] : {std::pair<int64_t, int64_t>{1, 3}, {17, 1}, {23, 6}, {40, 65}}) {
        std::vector<R> h = normals<R>(N * C, "h", 3), dh = normals<R>(N * C, "dh"), squares(static_cast<size_t>(N));
        const std::vector<double> exact = widened(h), before = widened(dh);
        const std::vector<int32_t> positions = positions_of(N);
        double sum = 0.25;  // it is added to
        decorrelation_backward(view(dh, {N, C}), Tensor(&sum, DType::kF64, {1}), view(squares, {N}), view(h, {N, C}),
                               positions, kScale, {});
        std::vector<double> moved = exact, gradient;
        for (size_t i = 0; i < moved.size(); ++i) {
            constexpr double kStep = 1e-5;
            const auto at = [&](double value) { return moved[i] = value, oracle(moved, exact, positions, C); };
            gradient.push_back((at(exact[i] + kStep) - at(exact[i] - kStep)) / (2 * kStep));
            moved[i] = exact[i];
            // Of the difference: 1e-16 / kStep, and kStep^2 times a third derivative, which a short vector makes large.
            EXPECT_NEAR(static_cast<double>(dh[i]) - before[i], gradient[i], 2e-8 + 40 * kRounding<R>) << i;
        }
        const double wanted = oracle(exact, exact, positions, C) / kScale;
        EXPECT_NEAR(sum - 0.25, wanted, 1e-13 + 20 * kRounding<R> * (1 + wanted));
        for (size_t n = 0; n < squares.size(); ++n)
            if (positions[n] == 0) EXPECT_EQ(squares[n], 0) << n;
    }
}

// Neither a vector without a direction nor one beside it gets anything that is no number.
TYPED_TEST(DecorrelationTest, AVectorOfZerosHasNoCosine) {
    using R = TypeParam;
    constexpr int64_t N = 12, C = 4;
    for (const size_t zero : {size_t{1}, size_t{3}}) {  // a first token, another one
        std::vector<R> h = normals<R>(N * C, "h"), dh(h.size()), squares(N);
        std::fill_n(h.begin() + static_cast<std::ptrdiff_t>(zero * C), C, R(0));
        double sum = 0;
        decorrelation_backward(view(dh, {N, C}), Tensor(&sum, DType::kF64, {1}), view(squares, {N}), view(h, {N, C}),
                               positions_of(N), kScale, {});
        for (const R value : dh) EXPECT_TRUE(std::isfinite(value));
        EXPECT_EQ(squares[3], 0);
        EXPECT_EQ(dh[3 * C], 0);
        EXPECT_GT(sum, 0);
    }
}

TYPED_TEST(DecorrelationTest, ThreadsChangeNoBit) {
    using R = TypeParam;
    constexpr int64_t N = 301, C = 129;
    std::vector<R> h = normals<R>(N * C, "h"), first, squares(N);
    double wanted = 0;
    for (const int threads : {1, 2, 3}) {
        std::vector<R> dh = normals<R>(N * C, "dh");
        double sum = 0;
        decorrelation_backward(view(dh, {N, C}), Tensor(&sum, DType::kF64, {1}), view(squares, {N}), view(h, {N, C}),
                               positions_of(N), kScale, {.threads = threads});
        if (threads == 1) first = dh, wanted = sum;
        EXPECT_TRUE(same_bits(dh, first));
        EXPECT_EQ(sum, wanted);
    }
}

TEST(Decorrelation, RefusesWhatDoesNotFit) {
    std::vector<double> h(12), dh(12), squares(3);
    double sum = 0;
    const auto run = [&](std::vector<int32_t> positions, Shape shape) {
        decorrelation_backward(view(dh, {3, 4}), Tensor(&sum, DType::kF64, {1}), view(squares, {3}), view(h, shape),
                               positions, 1, {});
    };
    EXPECT_NO_THROW(run({0, 1, 0}, {3, 4}));
    EXPECT_THROW(run({0, 1}, {3, 4}), Error);
    EXPECT_THROW(run({0, 2, 0}, {3, 4}), Error);  // its document began before the batch
    EXPECT_THROW(run({0, -1, 0}, {3, 4}), Error);
    EXPECT_THROW(run({0, 1, 0}, {4, 3}), Error);
}

}  // namespace
}  // namespace plimsoll
