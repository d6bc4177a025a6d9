// Muon against Keller Jordan's algorithm in plain loops, and against what it does to singular values.
#include "kernels/muon.h"

#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"
#include "tests/support/updates.h"

namespace plimsoll {
namespace {

constexpr int kSteps = 3;

struct Matrix {
    int64_t rows, columns;
    std::vector<double> values = std::vector<double>(static_cast<size_t>(rows * columns));
    double& at(int64_t i, int64_t j) { return values[static_cast<size_t>(i * columns + j)]; }
    double at(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * columns + j)]; }
};

Matrix transposed(const Matrix& a) {
    Matrix out{a.columns, a.rows};
    for (int64_t i = 0; i < a.rows; ++i)
        for (int64_t j = 0; j < a.columns; ++j) out.at(j, i) = a.at(i, j);
    return out;
}

Matrix product(const Matrix& a, const Matrix& b) {
    Matrix out{a.rows, b.columns};
    for (int64_t i = 0; i < a.rows; ++i)
        for (int64_t j = 0; j < b.columns; ++j)
            for (int64_t k = 0; k < a.columns; ++k) out.at(i, j) += a.at(i, k) * b.at(k, j);
    return out;
}

// zeropower_via_newtonschulz5 of the reference implementation: on the wide form, X <- a X + (b A + c A A) X, A = X X^T.
Matrix newton_schulz(Matrix g) {
    const bool tall = g.rows > g.columns;
    Matrix x = tall ? transposed(g) : g;
    double squares = 0;
    for (const double value : x.values) squares += value * value;
    for (double& value : x.values) value /= std::max(std::sqrt(squares), 1e-7);
    for (int step = 0; step < 5; ++step) {
        const Matrix a = product(x, transposed(x)), aa = product(a, a);
        Matrix b{a.rows, a.columns};
        for (size_t i = 0; i < b.values.size(); ++i) b.values[i] = -4.7750 * a.values[i] + 2.0315 * aa.values[i];
        const Matrix bx = product(b, x);
        for (size_t i = 0; i < x.values.size(); ++i) x.values[i] = 3.4445 * x.values[i] + bx.values[i];
    }
    return tall ? transposed(x) : x;
}

template <class T>
struct State {
    int64_t rows, columns;
    int64_t count = rows * columns, side = std::min(rows, columns);
    std::vector<T> param = normals<T>(count, "param"), buffer = std::vector<T>(param.size());
    std::vector<bf16> working = normals<bf16>(count, "working");
    std::vector<T> gradient(int step) const { return normals<T>(count, "gradient" + std::to_string(step)); }

    void update(MuonSpec spec, int threads = 1, std::vector<T> only = {}) {
        const T nan = std::numeric_limits<T>::quiet_NaN();  // scratch memory is not read before it is written
        std::vector<T> direction(param.size() + 3, nan), next = direction,
                                                         gram(static_cast<size_t>(side * side) + 1, nan), square = gram;
        const auto flat = [](std::vector<T>& v) { return view(v, {static_cast<int64_t>(v.size())}); };
        for (int step = 1; step <= (only.empty() ? kSteps : 1); ++step) {
            std::vector<T> grad = only.empty() ? gradient(step) : only;
            muon_step(view(param, {rows, columns}), view(buffer, {rows, columns}), view(grad, {rows, columns}),
                      view(working, {rows, columns}), {flat(direction), flat(next), flat(gram), flat(square)}, spec,
                      {.threads = threads});
        }
    }
};

template <class T>
class MuonTest : public testing::Test {};
TYPED_TEST_SUITE(MuonTest, WideFloats);

TYPED_TEST(MuonTest, FollowsTheReferenceForEveryShape) {
    for (const auto& [rows, columns] :
         {std::pair<int64_t, int64_t>{1, 1}, {1, 7}, {7, 1}, {5, 3}, {3, 5}, {8, 8}, {24, 16}, {33, 70}})
        for (const auto scale : {MuonSpec::Scale::kSpectral, MuonSpec::Scale::kRms}) {
            const MuonSpec spec{
                .lr = 0.02, .momentum = 0.95, .weight_decay = 0.1, .gradient_scale = 0.3, .scale = scale};
            State<TypeParam> state{.rows = rows, .columns = columns};
            Matrix param{rows, columns, widened(state.param)}, buffer{rows, columns};
            const auto r = static_cast<double>(rows), c = static_cast<double>(columns);
            const double rate = 0.02 * (scale == MuonSpec::Scale::kRms ? 0.2 * std::sqrt(std::max(r, c))
                                                                       : std::sqrt(std::max(1.0, r / c)));
            for (int step = 1; step <= kSteps; ++step) {
                const std::vector<double> grad = widened(state.gradient(step));
                Matrix update{rows, columns};
                for (size_t i = 0; i < grad.size(); ++i) {
                    const double g = 0.3 * grad[i];
                    buffer.values[i] += (g - buffer.values[i]) * (1 - 0.95);  // momentum.lerp_(grad, 1 - beta)
                    update.values[i] = g + (buffer.values[i] - g) * 0.95;     // grad.lerp_(momentum, beta)
                }
                update = newton_schulz(update);
                for (size_t i = 0; i < grad.size(); ++i)
                    param.values[i] = param.values[i] * (1 - 0.02 * 0.1) - rate * update.values[i];
            }
            state.update(spec);
            const std::string name = std::to_string(rows) + " x " + std::to_string(columns);
            expect_close(state.buffer, buffer.values, 4 * kSteps, name.c_str());
            // Five iterations multiply what is small by up to 3.4^5 = 485, roundings included; then 0.02 and less.
            expect_close(state.param, param.values, 485 * kSteps, name.c_str(), 0.02);
            for (size_t i = 0; i < state.param.size(); ++i)
                EXPECT_EQ(state.working[i].bits, bf16(static_cast<float>(state.param[i])).bits) << i;
        }
}

// G = U diag(s) V^T becomes U diag(p(p(p(p(p(s / |s|)))))) V^T, and p takes all that is not tiny near 1.
TYPED_TEST(MuonTest, MovesSingularValuesAndNothingElse) {
    constexpr int64_t R = 12, C = 5;
    const auto orthonormal = [](int64_t rows, int64_t columns, const char* name) {  // columns, by Gram and Schmidt
        Matrix q{rows, columns, normals<double>(rows * columns, name)};
        for (int64_t j = 0; j < columns; ++j)
            for (int pass = 0; pass < 2; ++pass) {
                for (int64_t k = 0; k < j; ++k) {
                    double overlap = 0;
                    for (int64_t i = 0; i < rows; ++i) overlap += q.at(i, k) * q.at(i, j);
                    for (int64_t i = 0; i < rows; ++i) q.at(i, j) -= overlap * q.at(i, k);
                }
                double norm = 0;
                for (int64_t i = 0; i < rows; ++i) norm += q.at(i, j) * q.at(i, j);
                for (int64_t i = 0; i < rows; ++i) q.at(i, j) /= std::sqrt(norm);
            }
        return q;
    };
    const Matrix u = orthonormal(R, C, "u"), v = orthonormal(C, C, "v");
    const std::vector<double> singular{3, 1, 0.5, 0.2, 0.05};
    const double norm = std::sqrt(9 + 1 + 0.25 + 0.04 + 0.0025);
    Matrix scaled = u, moved = u;
    for (int64_t j = 0; j < C; ++j) {
        double s = singular[static_cast<size_t>(j)] / norm;
        for (int step = 0; step < 5; ++step) s = 3.4445 * s - 4.7750 * s * s * s + 2.0315 * s * s * s * s * s;
        EXPECT_GT(s, 0.68);
        EXPECT_LT(s, 1.21);
        for (int64_t i = 0; i < R; ++i) scaled.at(i, j) *= singular[static_cast<size_t>(j)], moved.at(i, j) *= s;
    }
    const Matrix gradient = product(scaled, transposed(v)), expected = product(moved, transposed(v));
    for (const bool tall : {true, false}) {
        State<TypeParam> state{.rows = tall ? R : C, .columns = tall ? C : R};
        const Matrix g = tall ? gradient : transposed(gradient), step = tall ? expected : transposed(expected);
        std::vector<double> wanted = widened(state.param);
        // The first step's momentum is the gradient, but for a factor.
        for (size_t i = 0; i < wanted.size(); ++i) wanted[i] -= 0.2 * std::sqrt(12.0) * step.values[i];
        state.update({.lr = 1}, 1, {g.values.begin(), g.values.end()});
        expect_close(state.param, wanted, 2000, "param");
    }
}

TYPED_TEST(MuonTest, BitsDoNotDependOnThreads) {
    for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{200, 130}, {130, 200}}) {
        const State<TypeParam> start{.rows = rows, .columns = columns};
        State<TypeParam> one = start;
        one.update({.lr = 0.1, .weight_decay = 0.1});
        for (const int threads : {2, 3}) {
            State<TypeParam> other = start;
            other.update({.lr = 0.1, .weight_decay = 0.1}, threads);
            EXPECT_TRUE(same_bits(one.param, other.param) && same_bits(one.buffer, other.buffer)) << threads;
        }
    }
}

TYPED_TEST(MuonTest, AGradientOfZerosOnlyDecays) {
    State<TypeParam> state{.rows = 4, .columns = 6};
    std::vector<double> wanted = widened(state.param);
    for (double& value : wanted) value *= 1 - 0.5 * 0.1;
    state.update({.lr = 0.5, .weight_decay = 0.1}, 1, std::vector<TypeParam>(24));
    expect_close(state.param, wanted, 4, "param");
    EXPECT_EQ(state.buffer, std::vector<TypeParam>(24));
}

TEST(Muon, WhatDoesNotFitIsRefused) {
    std::vector<float> a(12), b(12), c(12), d(12), e(12), f(9), g(9);
    const auto step = [&](Tensor param, Tensor grad, Tensor next, Tensor square) {
        muon_step(param, view(b, param.shape), grad, {}, {view(d, {12}), next, view(f, {9}), square}, {.lr = 1}, {});
    };
    EXPECT_NO_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}), view(g, {9})));
    EXPECT_THROW(step(view(a, {12}), view(c, {12}), view(e, {12}), view(g, {9})), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {4, 3}), view(e, {12}), view(g, {9})), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}).slice_rows(0, 11), view(g, {9})), Error);
    EXPECT_THROW(step(view(a, {3, 4}), view(c, {3, 4}), view(e, {12}), view(g, {9}).slice_rows(0, 8)), Error);
    EXPECT_THROW(quintic_polynomial(view(a, {3, 4}), view(b, {3, 4}), {}, {}), Error);
}

}  // namespace
}  // namespace plimsoll
