// RMSNorm and LayerNorm against formulas in double, central differences, and themselves on other thread counts.
#include "kernels/norm.h"

#include <cmath>
#include <limits>
#include <ostream>
#include <vector>

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

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
    explicit Pass(Case c, int threads = 1, T start = 0, Write dx_write = Write::kAccumulate) : c(c) {
        x = normals<T>(c.N * c.C, "x"), gain = normals<T>(c.C, "gain"), bias = normals<T>(c.C, "bias");
        dout = normals<T>(c.N * c.C, "dout");
        out.resize(x.size()), mean.resize(static_cast<size_t>(c.N)), rstd = mean;
        dx.assign(x.size(), start), dgain.resize(gain.size()), dbias = dgain;
        forward(threads);
        backward(dx, dx_write, threads);
    }
    void backward(std::vector<T>& to, Write dx_write, int threads) {
        norm_backward(view(to, {c.N, c.C}), view(dgain, {c.C}), view(dbias, {c.C}), view(dout, {c.N, c.C}),
                      view(x, {c.N, c.C}), view(gain, {c.C}), mean_view(), view(rstd, {c.N}), {.kind = c.kind},
                      dx_write, Write::kOverwrite, {.threads = threads});
    }
    Tensor mean_view() { return c.kind == NormKind::kLayer ? view(mean, {c.N}) : Tensor{}; }
    void forward(int threads) {
        norm_forward(view(out, {c.N, c.C}), mean_view(), view(rstd, {c.N}), view(x, {c.N, c.C}), view(gain, {c.C}),
                     view(bias, {c.C}), {.kind = c.kind}, {.threads = threads});
    }
};

// Whatever was there, be it x itself.
template <class T>
void expect_overwriting_equals_adding_to_zeros(Case c) {
    const Pass<T> added(c);
    const Pass<T> written(c, 1, std::numeric_limits<T>::quiet_NaN(), Write::kOverwrite);
    EXPECT_TRUE(same_bits(written.dx, added.dx));
    EXPECT_TRUE(same_bits(written.dgain, added.dgain) && same_bits(written.dbias, added.dbias));
    Pass<T> in_place(c);
    in_place.backward(in_place.x, Write::kOverwrite, 2);
    EXPECT_TRUE(same_bits(in_place.x, added.dx));
    EXPECT_TRUE(same_bits(in_place.dgain, added.dgain) && same_bits(in_place.dbias, added.dbias));
}
TEST_P(NormTest, OverwritingHasTheBitsOfAddingToZeros) {
    expect_overwriting_equals_adding_to_zeros<double>(GetParam());
    expect_overwriting_equals_adding_to_zeros<float>(GetParam());
}

TEST_P(NormTest, ForwardFollowsTheFormula) {
    Pass<double> run(GetParam());
    const auto C = static_cast<size_t>(run.c.C);
    for (size_t n = 0; n < static_cast<size_t>(run.c.N); ++n) {
        double mean = 0, variance = 0;
        for (size_t c = 0; c < C; ++c)
            mean += run.c.kind == NormKind::kLayer ? run.x[n * C + c] / static_cast<double>(C) : 0;
        for (size_t c = 0; c < C; ++c) variance += std::pow(run.x[n * C + c] - mean, 2) / static_cast<double>(C);
        for (size_t c = 0; c < C; ++c)
            EXPECT_NEAR(run.out[n * C + c],
                        (run.x[n * C + c] - mean) / std::sqrt(variance + 1e-5) * run.gain[c] + run.bias[c],
                        1e-12);  // double rounding over at most 77 terms
    }
}

TEST_P(NormTest, BackwardMatchesCentralDifferences) {
    Pass<double> run(GetParam());
    const auto loss = [&] { return run.forward(1), dot(run.out, run.dout); };
    // With one channel LayerNorm's output is constant and RMSNorm's rstd is steep near x = 0: the formula is enough.
    if (run.c.C > 1) expect_gradient(run.x, run.dx, loss, "x");
    expect_gradient(run.gain, run.dgain, loss, "gain");
    expect_gradient(run.bias, run.dbias, loss, "bias");
}

TEST_P(NormTest, BackwardAddsToTheStreamAndBitsDoNotDependOnThreads) {
    Pass<float> one(GetParam(), 1);
    for (const int threads : {1, 2, 3}) {
        Pass<float> many(GetParam(), threads);
        EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.dx, many.dx) && same_bits(one.dgain, many.dgain) &&
                    same_bits(one.dbias, many.dbias))
            << threads;
    }
    Pass<double> zero(GetParam()), offset(GetParam(), 1, 5.0);
    for (size_t i = 0; i < zero.dx.size(); ++i)
        EXPECT_NEAR(offset.dx[i], zero.dx[i] + 5.0, 1e-12 * (1 + std::abs(zero.dx[i])));
}

// fp32 against the same op in fp64 on the same numbers, which the tests above tie to the formula.
TEST_P(NormTest, SingleAndHalfPrecisionStayCloseToDouble) {
    const Case c = GetParam();
    const Pass<float> single(c);
    Pass<double> wide(c);
    wide.x = widened(single.x), wide.gain = widened(single.gain), wide.bias = widened(single.bias);
    wide.forward(1);
    // A mean and a variance of C terms in 32 lanes, then four operations on values below 5.
    expect_close(single.out, wide.out, 12, "out", 5);

    // bf16 output is the fp32 output rounded once; a bf16 gradient is read as the number it is.
    Pass<float> from(c);
    std::vector<bf16> out(from.out.size()), dout = normals<bf16>(c.N * c.C, "dout");
    norm_forward(view(out, {c.N, c.C}), from.mean_view(), view(from.rstd, {c.N}), view(from.x, {c.N, c.C}),
                 view(from.gain, {c.C}), view(from.bias, {c.C}), {.kind = c.kind}, {.threads = 2});
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i].bits, bf16(single.out[i]).bits) << i;
    const auto backward = [&](Tensor grad) {
        std::vector<float> dx(from.x.size()), dgain(from.gain.size()), dbias = dgain;
        norm_backward(view(dx, {c.N, c.C}), view(dgain, {c.C}), view(dbias, {c.C}), grad, view(from.x, {c.N, c.C}),
                      view(from.gain, {c.C}), from.mean_view(), view(from.rstd, {c.N}), {.kind = c.kind},
                      Write::kAccumulate, Write::kOverwrite, {});
        dx.insert(dx.end(), dgain.begin(), dgain.end());
        dx.insert(dx.end(), dbias.begin(), dbias.end());
        return dx;
    };
    std::vector<float> same(dout.begin(), dout.end());
    // Compilers may contract the two differently: the last bits of sums over up to 130 rows.
    expect_close(backward(view(dout, {c.N, c.C})), widened(backward(view(same, {c.N, c.C}))), 12, "dx, dgain, dbias",
                 5);
}

TEST(Norm, ParameterGradientsAccumulate) {
    const Case c{NormKind::kLayer, 65, 16};
    Pass<double> run(c);
    std::vector<double> dgain = normals<double>(16, "dgain"), dbias = normals<double>(16, "dbias");
    const std::vector<double> start_gain = dgain, start_bias = dbias;
    norm_backward(view(run.dx, {c.N, c.C}), view(dgain, {16}), view(dbias, {16}), view(run.dout, {c.N, c.C}),
                  view(run.x, {c.N, c.C}), view(run.gain, {16}), run.mean_view(), view(run.rstd, {c.N}),
                  {.kind = c.kind}, Write::kAccumulate, Write::kAccumulate, {});
    for (size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(dgain[i], start_gain[i] + run.dgain[i]);
        EXPECT_EQ(dbias[i], start_bias[i] + run.dbias[i]);
    }
}

TEST(Norm, MismatchedShapesAreRefused) {
    std::vector<float> x(6), gain(2), rstd(2), out(6);
    EXPECT_THROW(norm_forward(view(out, {2, 3}), {}, view(rstd, {2}), view(x, {2, 3}), view(gain, {2}), {}, {}, {}),
                 Error);
    EXPECT_THROW(
        norm_forward(view(out, {2, 3}), view(rstd, {2}), view(rstd, {2}), view(x, {2, 3}), view(x, {3}), {}, {}, {}),
        Error);
}

INSTANTIATE_TEST_SUITE_P(Sizes, NormTest,
                         testing::Values(Case{NormKind::kRms, 3, 7}, Case{NormKind::kLayer, 3, 7},
                                         Case{NormKind::kRms, 1, 1}, Case{NormKind::kLayer, 65, 16},
                                         Case{NormKind::kRms, 130, 33}, Case{NormKind::kLayer, 2, 77},
                                         Case{NormKind::kLayer, 67, 257}, Case{NormKind::kRms, 67, 257}));

}  // namespace
}  // namespace plimsoll
