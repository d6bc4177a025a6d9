// RMSNorm per head against formulas in double, through its Jacobian.
#include "kernels/qk_norm.h"

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

constexpr double kEps = 1e-5;

template <class T>
struct Pass {
    using R = Accumulator<T>;
    int64_t N, H, HS;
    std::vector<T> x = normals<T>(N * H * HS, "x"), dout = normals<T>(N * H * HS, "dout"), out = x, dx = x;
    std::vector<R> gain = normals<R>(HS, "gain"), dgain = normals<R>(HS, "dgain"), rstd = normals<R>(N * H, "rstd");
    Tensor heads(std::vector<T>& values) { return view(values, {N, H, HS}); }

    void forward(int threads = 1) {
        qk_norm_forward(heads(out), view(rstd, {N, H}), heads(x), view(gain, {HS}), kEps, {.threads = threads});
    }
    void backward(Write write, int threads = 1) {
        qk_norm_backward(heads(dx), view(dgain, {HS}), heads(dout), heads(x), view(gain, {HS}), view(rstd, {N, H}),
                         write, {.threads = threads});
    }
};

struct Oracle {
    std::vector<double> out, dx, dgain;
    // dx_i = sum_j dout_j gain_j (r [i = j] - r^3 x_i x_j / HS): the Jacobian written out.
    template <class T>
    explicit Oracle(const Pass<T>& run) : dgain(static_cast<size_t>(run.HS)) {
        const auto HS = static_cast<size_t>(run.HS);
        const std::vector<double> x = widened(run.x), dout = widened(run.dout), gain = widened(run.gain);
        for (size_t row = 0; row < x.size(); row += HS) {
            double squares = 0;
            for (size_t i = 0; i < HS; ++i) squares += x[row + i] * x[row + i];
            const double r = std::pow(squares / static_cast<double>(HS) + kEps, -0.5);
            for (size_t i = 0; i < HS; ++i) {
                out.push_back(x[row + i] * r * gain[i]);
                dgain[i] += dout[row + i] * x[row + i] * r;
                double sum = 0;
                for (size_t j = 0; j < HS; ++j)
                    sum += dout[row + j] * gain[j] *
                           ((i == j ? r : 0) - r * r * r * x[row + i] * x[row + j] / static_cast<double>(HS));
                dx.push_back(sum);
            }
        }
    }
};

template <class T>
class QkNormTest : public testing::Test {};
TYPED_TEST_SUITE(QkNormTest, AllFloats);

TYPED_TEST(QkNormTest, FollowsTheFormula) {
    for (const int64_t N : {1, 3, 17, 65, 130})
        for (const int64_t HS : {2, 6, 64}) {
            Pass<TypeParam> run{.N = N, .H = N % 3 + 1, .HS = HS};
            const Oracle oracle(run);
            run.forward();
            run.backward(Write::kOverwrite);
            expect_close(run.out, oracle.out, 8, "out");  // the sum's error is halved by the root; a few products
            // rstd of two small channels can be near 20, and its cube enters.
            expect_close(run.dx, oracle.dx, 30, "dx", 50);
            expect_close(run.dgain, oracle.dgain, 40, "dgain", 10);  // sums over 390 rows at most, in slots
        }
}

TYPED_TEST(QkNormTest, GradientsAccumulateAndMayReplaceTheirInput) {
    Pass<TypeParam> apart{.N = 17, .H = 2, .HS = 6}, over = apart;
    apart.forward(), over.forward();
    const auto start = apart.dgain;
    apart.backward(Write::kOverwrite);
    qk_norm_backward(over.heads(over.dout), view(over.dgain, {6}), over.heads(over.dout), over.heads(over.x),
                     view(over.gain, {6}), view(over.rstd, {17, 2}), Write::kAccumulate, {});
    EXPECT_TRUE(same_bits(over.dout, apart.dx));
    for (size_t i = 0; i < 6; ++i) EXPECT_EQ(over.dgain[i], start[i] + apart.dgain[i]);
}

TYPED_TEST(QkNormTest, RowsMayBeAPartOfAProjection) {
    Pass<TypeParam> dense{.N = 3, .H = 2, .HS = 6};
    dense.forward();
    dense.backward(Write::kOverwrite);
    // Heads 1 and 2 of 5 in x, out, dout and dx alike.
    const auto spread = [](const std::vector<TypeParam>& values) {
        std::vector<TypeParam> wide(3 * 5 * 6, TypeParam(9.0f));
        for (size_t i = 0; i < values.size(); ++i) wide[i / 12 * 30 + 6 + i % 12] = values[i];
        return wide;
    };
    Pass<TypeParam> run{.N = 3, .H = 2, .HS = 6};
    std::vector<TypeParam> x = spread(run.x), dout = spread(run.dout), out = spread(run.out), dx = spread(run.dx);
    const auto part = [](std::vector<TypeParam>& wide) { return view(wide, {3, 5, 6}).slice_columns(1, 2); };
    qk_norm_forward(part(out), view(run.rstd, {3, 2}), part(x), view(run.gain, {6}), kEps, {});
    qk_norm_backward(part(dx), view(run.dgain, {6}), part(dout), part(x), view(run.gain, {6}), view(run.rstd, {3, 2}),
                     Write::kOverwrite, {});
    EXPECT_TRUE(same_bits(out, spread(dense.out)));
    EXPECT_TRUE(same_bits(dx, spread(dense.dx)));
    EXPECT_TRUE(same_bits(run.dgain, dense.dgain));
}

TYPED_TEST(QkNormTest, BitsDoNotDependOnThreads) {
    Pass<TypeParam> one{.N = 403, .H = 3, .HS = 22};
    const Pass<TypeParam> start = one;
    one.forward(), one.backward(Write::kAccumulate);
    for (const int threads : {1, 2, 3}) {
        Pass<TypeParam> many = start;
        many.forward(threads), many.backward(Write::kAccumulate, threads);
        EXPECT_TRUE(same_bits(one.out, many.out) && same_bits(one.rstd, many.rstd) && same_bits(one.dx, many.dx) &&
                    same_bits(one.dgain, many.dgain))
            << threads;
    }
}

TEST(QkNorm, BackwardMatchesCentralDifferences) {
    Pass<double> run{.N = 3, .H = 2, .HS = 6};
    run.forward();
    run.backward(Write::kOverwrite);
    const auto loss = [&] { return run.forward(), dot(run.out, run.dout); };
    expect_gradient(run.x, run.dx, loss, "x");
    expect_gradient(run.gain, run.dgain, loss, "gain");
}

TEST(QkNorm, MismatchedShapesAreRefused) {
    Pass<float> run{.N = 3, .H = 2, .HS = 6};
    const auto forward = [&](Shape rstd, Shape gain, Shape x) {
        qk_norm_forward(view(run.out, x), view(run.rstd, rstd), run.heads(run.x), view(run.gain, gain), kEps, {});
    };
    EXPECT_NO_THROW(forward({3, 2}, {6}, {3, 2, 6}));
    EXPECT_THROW(forward({2, 3}, {6}, {3, 2, 6}), Error);
    EXPECT_THROW(forward({3, 2}, {5}, {3, 2, 6}), Error);
    EXPECT_THROW(forward({3, 2}, {6}, {2, 3, 6}), Error);
    EXPECT_THROW(forward({3, 2}, {6}, {6, 6}), Error);
}

}  // namespace
}  // namespace plimsoll
