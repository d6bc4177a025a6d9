// RMSNorm and LayerNorm against formulas in double, central differences, and themselves on other thread counts.
#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ostream>
#include <vector>

#include "kernels/random.h"

namespace plimsoll {
namespace {

template <class T>
std::vector<T> normals(size_t count, const char* name) {
    const RandomStream stream(11, "norm_test", name);
    std::vector<T> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<T>(stream.normal(i));
    return values;
}

template <class T>
Tensor view(std::vector<T>& values, Shape shape) { return Tensor(values.data(), kDTypeOf<T>, shape); }

struct Case {
    NormKind kind;
    int64_t N, C;
};

void PrintTo(const Case& c, std::ostream* out) {
    *out << (c.kind == NormKind::kRms ? "rms" : "layer") << " N=" << c.N << " C=" << c.C;
}

class NormTest : public testing::TestWithParam<Case> {};

// One forward and backward of a case in T. dx starts as `start`.
template <class T>
struct Pass {
    std::vector<T> x, gain, bias, dout, out, mean, rstd, dx, dgain, dbias;
    Case c;
    explicit Pass(Case c, int threads = 1, T start = 0) : c(c) {
        const auto n = static_cast<size_t>(c.N), C = static_cast<size_t>(c.C);
        x = normals<T>(n * C, "x"), gain = normals<T>(C, "gain"), bias = normals<T>(C, "bias"), dout = normals<T>(n * C, "dout");
        out.resize(n * C), mean.resize(n), rstd.resize(n), dx.assign(n * C, start), dgain.resize(C), dbias.resize(C);
        forward(threads);
        norm_backward(view(dx, {c.N, c.C}), view(dgain, {c.C}), view(dbias, {c.C}), view(dout, {c.N, c.C}), view(x, {c.N, c.C}),
                      view(gain, {c.C}), mean_view(), view(rstd, {c.N}), {.kind = c.kind}, Write::kOverwrite, {.threads = threads});
    }
    Tensor mean_view() { return c.kind == NormKind::kLayer ? view(mean, {c.N}) : Tensor{}; }
    void forward(int threads) {
        norm_forward(view(out, {c.N, c.C}), mean_view(), view(rstd, {c.N}), view(x, {c.N, c.C}), view(gain, {c.C}),
                     view(bias, {c.C}), {.kind = c.kind}, {.threads = threads});
    }
    T loss() {
        forward(1);
        T sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
        return sum;
    }
};

TEST_P(NormTest, ForwardFollowsTheFormula) {
    Pass<double> run(GetParam());
    const auto C = static_cast<size_t>(run.c.C);
    for (size_t n = 0; n < static_cast<size_t>(run.c.N); ++n) {
        double mean = 0, variance = 0;
        for (size_t c = 0; c < C; ++c) mean += run.c.kind == NormKind::kLayer ? run.x[n * C + c] / static_cast<double>(C) : 0;
        for (size_t c = 0; c < C; ++c) variance += std::pow(run.x[n * C + c] - mean, 2) / static_cast<double>(C);
        for (size_t c = 0; c < C; ++c)
            EXPECT_NEAR(run.out[n * C + c], (run.x[n * C + c] - mean) / std::sqrt(variance + 1e-5) * run.gain[c] + run.bias[c],
                        1e-12);  // double rounding over at most 77 terms
    }
}

TEST_P(NormTest, BackwardMatchesCentralDifferences) {
    Pass<double> run(GetParam());
    constexpr double kStep = 1e-5;  // error about kStep^2 * third derivative + 1e-16 / kStep: 1e-8 with margin
    const auto expect_gradient = [&](std::vector<double>& values, const std::vector<double>& gradient) {
        for (size_t i = 0; i < values.size(); ++i) {
            const double kept = values[i];
            values[i] = kept + kStep;
            const double above = run.loss();
            values[i] = kept - kStep;
            const double below = run.loss();
            values[i] = kept;
            EXPECT_NEAR(gradient[i], (above - below) / (2 * kStep), 1e-6 * (1 + std::abs(gradient[i])));
        }
    };
    // With one channel LayerNorm's output is constant and RMSNorm's rstd is steep near x = 0: the formula is enough.
    if (run.c.C > 1) expect_gradient(run.x, run.dx);
    expect_gradient(run.gain, run.dgain);
    expect_gradient(run.bias, run.dbias);
}

TEST_P(NormTest, BackwardAddsToTheStreamAndBitsDoNotDependOnThreads) {
    Pass<float> one(GetParam(), 1), two(GetParam(), 2);
    EXPECT_EQ(one.out, two.out);
    EXPECT_EQ(one.dx, two.dx);
    EXPECT_EQ(one.dgain, two.dgain);
    EXPECT_EQ(one.dbias, two.dbias);
    Pass<double> zero(GetParam()), offset(GetParam(), 1, 5.0);
    for (size_t i = 0; i < zero.dx.size(); ++i)
        EXPECT_NEAR(offset.dx[i], zero.dx[i] + 5.0, 1e-12 * (1 + std::abs(zero.dx[i])));
}

TEST(Norm, MismatchedShapesAreRefused) {
    std::vector<float> x(6), gain(2), rstd(2), out(6);
    EXPECT_THROW(norm_forward(view(out, {2, 3}), {}, view(rstd, {2}), view(x, {2, 3}), view(gain, {2}), {}, {}, {}), Error);
    EXPECT_THROW(norm_forward(view(out, {2, 3}), view(rstd, {2}), view(rstd, {2}), view(x, {2, 3}), view(x, {3}), {}, {}, {}),
                 Error);
}

INSTANTIATE_TEST_SUITE_P(Sizes, NormTest,
                         testing::Values(Case{NormKind::kRms, 3, 7}, Case{NormKind::kLayer, 3, 7}, Case{NormKind::kRms, 1, 1},
                                         Case{NormKind::kLayer, 65, 16}, Case{NormKind::kRms, 130, 33},
                                         Case{NormKind::kLayer, 2, 77}));

}  // namespace
}  // namespace plimsoll
