#include "kernels/differential.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {
namespace {

constexpr int64_t kP = 4, kVS = 10, kHS = 5;

struct Kind {
    bool one_lambda, norm;
    DifferentialSpec spec;
};
const Kind kKinds[] = {{true, true, {.factor = 0.3, .eps = 1e-3}},
                       {true, true, {.factor = 0.8, .eps = 1e-5}},
                       {false, false, {}},
                       {false, true, {.factor = 1, .eps = 1e-5}}};

template <class T>
struct DifferentialRun {
    using R = Accumulator<T>;
    Kind kind;
    int64_t N;
    std::vector<T> y, logits, out, dout, dy, dlogits;
    std::vector<R> lambda, gain, rstd, dlambda, dgain, parts;

    explicit DifferentialRun(const Kind& kind, int64_t N = 6) : kind(kind), N(N) {
        y = normals<T>(N * 2 * kP * kVS, "y"), dout = normals<T>(N * kP * kVS, "dout");
        if (kind.norm) gain = normals<R>(kVS, "gain");
        lambda = {R(0.7)};
        logits = normals<T>(N * kP, "logits");
        out.resize(dout.size()), dy.resize(y.size()), dlogits.resize(logits.size());
        const auto pairs = static_cast<size_t>(N * kP);
        rstd.resize(pairs), parts.resize(pairs), dlambda.resize(1), dgain.resize(gain.size());
    }
    Shape maps() const { return {N, 2 * kP, kVS}; }
    DifferentialTensors t() {
        return {.y = view(y, maps()),
                .lambda = kind.one_lambda ? view(lambda, {1}) : view(logits, {N, kP}),
                .gain = view(gain, {kVS}),
                .rstd = view(rstd, {N, kP}),
                .out = view(out, {N, kP, kVS})};
    }
    DifferentialTensors d() {
        return {.y = view(dy, maps()),
                .lambda = kind.one_lambda ? view(dlambda, {1}) : view(dlogits, {N, kP}),
                .gain = view(dgain, {kVS}),
                .rstd = view(parts, {N, kP}),
                .out = view(dout, {N, kP, kVS})};
    }
    void forward(int threads = 1) { differential_forward(t(), kind.spec, {.threads = threads}); }
    void backward(int threads = 1, Write write = Write::kOverwrite) {
        differential_backward(d(), t(), kind.spec, write, {.threads = threads});
    }
};

// By the definition.
template <class T>
std::vector<double> by_definition(DifferentialRun<T>& run) {
    const std::vector<double> y = widened(run.y), logits = widened(run.logits);
    std::vector<double> out;
    for (int64_t n = 0; n < run.N; ++n)
        for (int64_t p = 0; p < kP; ++p) {
            const double lambda = run.kind.one_lambda ? static_cast<double>(run.lambda[0])
                                                      : 1 / (1 + std::exp(-logits[static_cast<size_t>(n * kP + p)]));
            std::vector<double> z;
            double squares = 0;
            for (int64_t c = 0; c < kVS; ++c) {
                const int64_t first = 2 * (n * kP + p) * kVS + c;
                z.push_back(y[static_cast<size_t>(first)] - lambda * y[static_cast<size_t>(first + kVS)]);
                squares += z.back() * z.back();
            }
            const double rms = std::sqrt(squares / static_cast<double>(kVS) + run.kind.spec.eps);
            for (size_t c = 0; c < z.size(); ++c)
                out.push_back(run.kind.norm ? run.kind.spec.factor * z[c] / rms * static_cast<double>(run.gain[c])
                                            : z[c]);
        }
    return out;
}

template <class T>
class DifferentialTest : public testing::Test {};
TYPED_TEST_SUITE(DifferentialTest, AllFloats);

TYPED_TEST(DifferentialTest, IsTheDifferenceOfPairs) {
    for (const Kind& kind : kKinds) {
        DifferentialRun<TypeParam> run(kind);
        run.forward();
        expect_close(run.out, by_definition(run), 40, "out", 4);
    }
}

TEST(Differential, GradientsMatchCentralDifferences) {
    for (const Kind& kind : kKinds) {
        DifferentialRun<double> run(kind);
        run.forward();
        run.backward();
        const auto loss = [&] {
            run.forward();
            return dot(run.out, run.dout);
        };
        expect_gradient(run.y, run.dy, loss, "y");
        if (kind.norm) expect_gradient(run.gain, run.dgain, loss, "gain");
        if (kind.one_lambda)
            expect_gradient(run.lambda, run.dlambda, loss, "lambda");
        else
            expect_gradient(run.logits, run.dlogits, loss, "logits");
        run.forward();
        const std::vector<double> once = run.dgain, lambda = run.dlambda;
        run.backward(1, Write::kAccumulate);
        for (size_t i = 0; i < once.size(); ++i) EXPECT_DOUBLE_EQ(run.dgain[i], 2 * once[i]);
        EXPECT_EQ(run.dlambda, lambda);  // overwritten
    }
}

TEST(Differential, LambdaOfVectorsAndItsGradient) {
    std::vector<double> vectors = normals<double>(4 * kHS, "vectors", 0.5), lambda(1), dlambda{1.7}, d(vectors.size());
    differential_lambda_forward(view(lambda, {1}), view(vectors, {4, kHS}), 0.2, {});
    double first = 0, second = 0;
    for (size_t c = 0; c < kHS; ++c)
        first += vectors[c] * vectors[kHS + c], second += vectors[2 * kHS + c] * vectors[3 * kHS + c];
    EXPECT_NEAR(lambda[0], std::exp(first) - std::exp(second) + 0.2, 1e-14);
    differential_lambda_backward(view(d, {4, kHS}), view(dlambda, {1}), view(vectors, {4, kHS}), Write::kOverwrite, {});
    expect_gradient(
        vectors, d,
        [&] {
            differential_lambda_forward(view(lambda, {1}), view(vectors, {4, kHS}), 0.2, {});
            return lambda[0] * dlambda[0];
        },
        "vectors");
    const std::vector<double> once = d;
    differential_lambda_backward(view(d, {4, kHS}), view(dlambda, {1}), view(vectors, {4, kHS}), Write::kAccumulate,
                                 {});
    for (size_t i = 0; i < d.size(); ++i) EXPECT_DOUBLE_EQ(d[i], 2 * once[i]);
}

TYPED_TEST(DifferentialTest, RepeatsBlocksOfHeadsAndAddsThemUp) {
    constexpr int64_t N = 3, H = 4;
    for (const int64_t block : {1, 2, 4}) {
        std::vector<TypeParam> x = normals<TypeParam>(N * (H + 1) * kHS, "x"),
                               out(static_cast<size_t>(N * 2 * H * kHS)), dx(x.size());
        const Tensor source = view(x, {N, H + 1, kHS}).slice_columns(1, H);
        repeat_heads_forward(view(out, {N, 2 * H, kHS}), source, block, {});
        for (int64_t n = 0; n < N; ++n)
            for (int64_t u = 0; u < 2 * H; ++u) {
                const int64_t from = u / (2 * block) * block + u % block;
                for (int64_t c = 0; c < kHS; ++c)
                    EXPECT_EQ(widened(out)[static_cast<size_t>((n * 2 * H + u) * kHS + c)],
                              widened(x)[static_cast<size_t>((n * (H + 1) + 1 + from) * kHS + c)]);
            }
        repeat_heads_backward(view(dx, {N, H + 1, kHS}).slice_columns(1, H), view(out, {N, 2 * H, kHS}), block, {});
        for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(widened(dx)[i], i / kHS % (H + 1) ? 2 * widened(x)[i] : 0) << i;
    }
}

TYPED_TEST(DifferentialTest, BitsDoNotDependOnThreads) {
    for (const Kind& kind : kKinds) {
        DifferentialRun<TypeParam> one(kind, 803), three(kind, 803);
        one.forward(1), three.forward(3);
        one.backward(1), three.backward(3);
        EXPECT_TRUE(same_bits(one.out, three.out) && same_bits(one.dy, three.dy));
        EXPECT_TRUE(same_bits(one.dgain, three.dgain) && same_bits(one.dlambda, three.dlambda));
    }
}

TEST(Differential, WrongShapesAreRefused) {
    DifferentialRun<float> run(kKinds[0]);
    const auto refused = [&](auto&& change) {
        DifferentialTensors t = run.t();
        change(t);
        EXPECT_THROW(differential_forward(t, run.kind.spec, {}), Error);
    };
    refused([](DifferentialTensors& t) { t.y = t.y.slice_rows(0, 2); });
    refused([](DifferentialTensors& t) { t.gain = t.gain.slice_rows(0, 2); });
    refused([](DifferentialTensors& t) { t.rstd = {}; });
    refused([](DifferentialTensors& t) { t.lambda = t.rstd.slice_rows(0, 2); });
    DifferentialTensors d = run.d();
    d.rstd = {};
    EXPECT_THROW(differential_backward(d, run.t(), run.kind.spec, Write::kOverwrite, {}), Error);
    EXPECT_THROW(repeat_heads_forward(run.t().y, run.t().y, 1, {}), Error);
    EXPECT_THROW(differential_lambda_forward(view(run.dlambda, {1}), view(run.gain, {2, 5}), 0, {}), Error);
}

}  // namespace
}  // namespace plimsoll
