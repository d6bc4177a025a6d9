// OrthoAdam against dense orthogonal matrices, and those against what makes a matrix orthogonal.
#include "kernels/orthoadam.h"

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"
#include "tests/support/updates.h"

namespace plimsoll {
namespace {

constexpr int kSteps = 4;
constexpr int64_t kSizes[] = {1, 2, 3, 4, 5, 7, 8, 12, 17, 31, 64, 96, 100};

const Rotation kRows{RandomStream(5, "orthoadam", "rows")}, kColumns{RandomStream(5, "orthoadam", "columns")};

using Dense = std::vector<double>;  // (n, n)

// Not inlined: gcc 12.2 at -O3 -march=rocketlake makes other numbers of dense() with this inside (right at -O2, with
// -march=x86-64-v3, and under sanitizers).
[[gnu::noinline]] Dense multiply(const Dense& a, const Dense& b, int64_t rows, int64_t inner, int64_t columns) {
    Dense out(static_cast<size_t>(rows * columns));
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t k = 0; k < inner; ++k)
            for (int64_t j = 0; j < columns; ++j)
                out[static_cast<size_t>(i * columns + j)] +=
                    a[static_cast<size_t>(i * inner + k)] * b[static_cast<size_t>(k * columns + j)];
    return out;
}

Dense transposed(const Dense& a, int64_t rows, int64_t columns) {
    Dense out(a.size());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j)
            out[static_cast<size_t>(j * rows + i)] = a[static_cast<size_t>(i * columns + j)];
    return out;
}

// The product of the header's comment, factor by factor. Sylvester's H has the sign of |i & j|'s parity.
Dense dense(const Rotation& rotation, int64_t n) {
    int64_t p = 1;
    while (2 * p <= n) p *= 2;
    Dense q(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) q[static_cast<size_t>(i * n + i)] = 1;
    for (int pass = 0; pass < (p == n ? 1 : 3); ++pass) {
        const int64_t begin = pass == 1 ? n - p : 0;
        Dense factor(q.size());
        for (int64_t i = 0; i < n; ++i) factor[static_cast<size_t>(i * n + i)] = 1;
        for (int64_t i = 0; i < p; ++i)
            for (int64_t j = 0; j < p; ++j) {
                const int parity = std::popcount(static_cast<uint64_t>(i & j)) % 2;
                const bool negative = (parity == 1) != rotation.flips(pass, begin + j);
                factor[static_cast<size_t>((begin + i) * n + begin + j)] =
                    (negative ? -1 : 1) / std::sqrt(static_cast<double>(p));
            }
        q = multiply(factor, q, n, n, n);
    }
    return q;
}

template <class T>
class OrthoAdamTest : public testing::Test {};
TYPED_TEST_SUITE(OrthoAdamTest, WideFloats);

TYPED_TEST(OrthoAdamTest, RotationsAreTheirDenseMatrix) {
    for (const int64_t R : kSizes)
        for (const int64_t C : {int64_t{1}, int64_t{3}, int64_t{70}})
            for (const bool rows : {true, false}) {
                const int64_t n = R, others = C;
                const Shape shape = rows ? Shape{n, others} : Shape{others, n};
                std::vector<TypeParam> x = normals<TypeParam>(n * others, "x"), start = x;
                const Dense q = dense(kRows, n);
                const Dense wanted = rows ? multiply(q, widened(x), n, n, others)
                                          : multiply(widened(x), transposed(q, n, n), others, n, n);
                const Axis axis = rows ? Axis::kRows : Axis::kColumns;
                rotate(view(x, shape), axis, Turn::kInto, kRows, {});
                // Three transforms of up to seven additions, of values of order one.
                expect_close(x, wanted, 40, "rotated", 4);
                rotate(view(x, shape), axis, Turn::kBack, kRows, {.threads = 2});
                expect_close(x, widened(start), 80, "rotated back", 4);
            }
}

TEST(Rotation, IsOrthogonalAndMixesEverything) {
    for (const int64_t n : kSizes) {
        const Dense q = dense(kColumns, n), gram = multiply(q, transposed(q, n, n), n, n, n);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j)
                EXPECT_NEAR(gram[static_cast<size_t>(i * n + j)], i == j, 1e-14) << n << ": " << i << ", " << j;
        if (n < 8) continue;
        double largest = 0;
        for (const double entry : q) largest = std::max(largest, std::abs(entry));
        EXPECT_LT(largest, 0.8) << n;  // no channel is left where it was
    }
}

TEST(Rotation, SignsAreFairAndOfTheirMatrix) {
    constexpr int64_t kCount = 20000;
    const Rotation other{RandomStream(5, "orthoadam", "other")};
    int64_t turned = 0, equal = 0, again = 0, next_pass = 0;
    for (int64_t i = 0; i < kCount; ++i) {
        turned += kRows.flips(0, i);
        equal += kRows.flips(0, i) == other.flips(0, i);
        next_pass += kRows.flips(0, i) == kRows.flips(1, i);
        again += kRows.flips(0, i) == kRows.flips(0, i + 32);
    }
    for (const int64_t count : {turned, equal, again, next_pass})
        EXPECT_NEAR(static_cast<double>(count), kCount / 2, 330);  // 4.7 standard deviations
}

template <class T>
struct State {
    int64_t rows, columns;
    std::vector<T> param = normals<T>(rows * columns, "param"), m = std::vector<T>(param.size()), v = m;
    std::vector<bf16> working = normals<bf16>(rows * columns, "working");
    std::vector<T> gradient(int step) const { return normals<T>(rows * columns, "gradient" + std::to_string(step)); }

    void update(AdamWSpec spec, const MatrixBasis& basis, int threads = 1) {
        std::vector<T> scratch(param.size() + 5, std::numeric_limits<T>::quiet_NaN());
        const Shape shape{rows, columns};
        for (int step = 1; step <= kSteps; ++step) {
            std::vector<T> grad = gradient(step);
            spec.step = step;
            orthoadam_step(view(param, shape), view(m, shape), view(v, shape), view(grad, shape), view(working, shape),
                           view(scratch, {rows * columns + 5}), basis, spec, {.threads = threads});
            EXPECT_TRUE(same_bits(grad, gradient(step)));  // only read
        }
    }
};

TYPED_TEST(OrthoAdamTest, IsAdamInTheRotatedBasis) {
    const AdamWSpec spec{
        .lr = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1, .gradient_scale = 0.3};
    for (const auto& [R, C] : {std::pair<int64_t, int64_t>{1, 1}, {1, 8}, {6, 4}, {12, 20}, {16, 7}})
        for (const int sides : {1, 2, 3}) {
            const MatrixBasis basis{.rows = sides & 1 ? std::optional(kRows) : std::nullopt,
                                    .columns = sides & 2 ? std::optional(kColumns) : std::nullopt};
            State<TypeParam> state{.rows = R, .columns = C};
            Dense theta = widened(state.param), m(theta.size()), v(theta.size());
            for (int t = 1; t <= kSteps; ++t) {
                Dense g = widened(state.gradient(t));
                for (double& value : g) value *= 0.3;
                if (basis.rows) g = multiply(dense(kRows, R), g, R, R, C);
                if (basis.columns) g = multiply(g, transposed(dense(kColumns, C), C, C), R, C, C);
                for (size_t i = 0; i < g.size(); ++i) {
                    m[i] = 0.9 * m[i] + 0.1 * g[i];
                    v[i] = 0.95 * v[i] + 0.05 * g[i] * g[i];
                    g[i] = m[i] / (1 - std::pow(0.9, t)) / (std::sqrt(v[i] / (1 - std::pow(0.95, t))) + 1e-6);
                }
                if (basis.rows) g = multiply(transposed(dense(kRows, R), R, R), g, R, R, C);
                if (basis.columns) g = multiply(g, dense(kColumns, C), R, C, C);
                for (size_t i = 0; i < g.size(); ++i) theta[i] -= 0.02 * (g[i] + 0.1 * theta[i]);
            }
            state.update(spec, basis);
            // Moments near 0 make directions of order 1 from roundings of other entries: some dozens of them.
            expect_close(state.m, m, 60 * kSteps, "m"), expect_close(state.v, v, 60 * kSteps, "v");
            expect_close(state.param, theta, 200 * kSteps, "param");
            for (size_t i = 0; i < theta.size(); ++i)
                EXPECT_EQ(state.working[i].bits, bf16(static_cast<float>(state.param[i])).bits) << i;
        }
}

// Where nothing is rotated it is AdamW, but for one rounding of the decay.
TYPED_TEST(OrthoAdamTest, WithoutARotationIsAdamW) {
    const AdamWSpec spec{.lr = 0.02, .weight_decay = 0.1};
    State<TypeParam> state{.rows = 9, .columns = 11}, plain = state;
    state.update(spec, {});
    for (int step = 1; step <= kSteps; ++step) {
        std::vector<TypeParam> grad = plain.gradient(step);
        AdamWSpec now = spec;
        now.step = step;
        adamw_step(view(plain.param, {99}), view(plain.m, {99}), view(plain.v, {99}), view(grad, {99}), {}, now, {});
    }
    expect_close(state.param, widened(plain.param), 4 * kSteps, "param");
    EXPECT_TRUE(same_bits(state.m, plain.m));
}

TYPED_TEST(OrthoAdamTest, BitsDoNotDependOnThreads) {
    const State<TypeParam> start{.rows = 300, .columns = 131};
    State<TypeParam> one = start;
    const MatrixBasis basis{kRows, kColumns};
    one.update({.lr = 0.1, .weight_decay = 0.1}, basis);
    for (const int threads : {2, 3}) {
        State<TypeParam> other = start;
        other.update({.lr = 0.1, .weight_decay = 0.1}, basis, threads);
        EXPECT_TRUE(same_bits(one.param, other.param) && same_bits(one.m, other.m) && same_bits(one.v, other.v))
            << threads;
    }
}

TEST(OrthoAdam, WhatDoesNotFitIsRefused) {
    std::vector<float> a(12), b(12), c(12), d(12), e(12);
    const auto step = [&](Tensor param, Tensor v, Tensor scratch, int64_t number) {
        orthoadam_step(param, view(b, param.shape), v, view(d, param.shape), {}, scratch, {kRows, kColumns},
                       {.lr = 1, .step = number}, {});
    };
    EXPECT_NO_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}), 1));
    EXPECT_THROW(step(view(a, {12}), view(c, {12}), view(e, {12}), 1), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {4, 3}), view(e, {12}), 1), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}).slice_rows(0, 11), 1), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}), 0), Error);
    EXPECT_THROW(rotate(view(a, {12}), Axis::kRows, Turn::kInto, kRows, {}), Error);
}

}  // namespace
}  // namespace plimsoll
