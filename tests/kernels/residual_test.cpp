// Additions to the residual stream, with and without the norm behind them, and conversions.
#include "kernels/residual.h"

#include <limits>

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

// residual_norm_forward against residual_forward and norm_forward, bit by bit.
template <class R, class Branch, class Out>
void expect_fused_equals_apart(NormKind kind, bool with_bias, int64_t N, int64_t C, int threads) {
    std::vector<R> x = normals<R>(N * C, "x"), gain = normals<R>(C, "gain"),
                   bias = normals<R>(with_bias ? C : 0, "bias");
    std::vector<Branch> branch = normals<Branch>(N * C, "branch");
    std::vector<R> sum(x.size()), mean(kind == NormKind::kLayer ? static_cast<size_t>(N) : 0),
        rstd(static_cast<size_t>(N));
    std::vector<Out> out(x.size());
    auto sum2 = sum, mean2 = mean, rstd2 = rstd;
    auto out2 = out;
    const NormSpec spec{.kind = kind};
    residual_forward(view(sum, {N, C}), view(x, {N, C}), view(branch, {N, C}), {});
    norm_forward(view(out, {N, C}), view(mean, {N}), view(rstd, {N}), view(sum, {N, C}), view(gain, {C}),
                 view(bias, {C}), spec, {});
    residual_norm_forward(view(sum2, {N, C}), view(out2, {N, C}), view(mean2, {N}), view(rstd2, {N}), view(x, {N, C}),
                          view(branch, {N, C}), view(gain, {C}), view(bias, {C}), spec, {.threads = threads});
    EXPECT_TRUE(same_bits(sum, sum2) && same_bits(out, out2) && same_bits(mean, mean2) && same_bits(rstd, rstd2))
        << (kind == NormKind::kLayer ? "layer" : "rms") << " N=" << N << " C=" << C << " threads=" << threads;
    // The stream may be updated where it lies.
    residual_norm_forward(view(x, {N, C}), view(out2, {N, C}), view(mean2, {N}), view(rstd2, {N}), view(x, {N, C}),
                          view(branch, {N, C}), view(gain, {C}), view(bias, {C}), spec, {.threads = threads});
    EXPECT_TRUE(same_bits(sum, x) && same_bits(out, out2));
}

TEST(ResidualNorm, HasTheBitsOfTheTwoOps) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
        for (const int64_t C : {1, 3, 17, 65, 256})
            for (const int threads : {1, 2, 3}) {
                const int64_t N = 101;
                expect_fused_equals_apart<float, float, float>(kind, false, N, C, threads);
                expect_fused_equals_apart<float, bf16, bf16>(kind, true, N, C, threads);
                expect_fused_equals_apart<float, bf16, float>(kind, true, N, C, threads);
                expect_fused_equals_apart<float, float, bf16>(kind, false, N, C, threads);
                expect_fused_equals_apart<double, double, double>(kind, true, N, C, threads);
            }
}

// residual_norm_backward against norm_backward and convert, bit by bit, with dx written and added to.
template <class R, class Out>
void expect_backward_equals_apart(NormKind kind, Write write, int64_t N, int64_t C, int threads) {
    const bool layer = kind == NormKind::kLayer;
    std::vector<R> x = normals<R>(N * C, "x"), gain = normals<R>(C, "gain"), dx = normals<R>(N * C, "dx"),
                   dgain = normals<R>(C, "dgain"), dbias = normals<R>(layer ? C : 0, "dbias"),
                   mean = normals<R>(layer ? N : 0, "mean"), rstd = normals<R>(N, "rstd");
    std::vector<Out> dout = normals<Out>(N * C, "dout"), dbranch(dout.size()), dbranch2(dout.size());
    auto dx2 = dx, dgain2 = dgain, dbias2 = dbias;
    const NormSpec spec{.kind = kind};
    norm_backward(view(dx, {N, C}), view(dgain, {C}), view(dbias, {C}), view(dout, {N, C}), view(x, {N, C}),
                  view(gain, {C}), view(mean, {N}), view(rstd, {N}), spec, write, write, {});
    convert(view(dbranch, {N, C}), view(dx, {N, C}), {});
    residual_norm_backward(view(dx2, {N, C}), view(dbranch2, {N, C}), view(dgain2, {C}), view(dbias2, {C}),
                           view(dout, {N, C}), view(x, {N, C}), view(gain, {C}), view(mean, {N}), view(rstd, {N}), spec,
                           write, write, {.threads = threads});
    EXPECT_TRUE(same_bits(dx, dx2) && same_bits(dbranch, dbranch2) && same_bits(dgain, dgain2) &&
                same_bits(dbias, dbias2))
        << (layer ? "layer" : "rms") << " N=" << N << " C=" << C << " threads=" << threads;
}

TEST(ResidualNorm, BackwardHasTheBitsOfTheTwoOps) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer})
        for (const Write write : {Write::kOverwrite, Write::kAccumulate})
            for (const int64_t C : {1, 17, 65, 256})
                for (const int threads : {1, 3}) {
                    expect_backward_equals_apart<float, float>(kind, write, 101, C, threads);
                    expect_backward_equals_apart<float, bf16>(kind, write, 101, C, threads);
                    expect_backward_equals_apart<double, double>(kind, write, 101, C, threads);
                }
}

template <class R, class Branch>
void expect_sums() {
    for (const int64_t C : {1, 3, 17, 65, 257}) {
        std::vector<R> x = normals<R>(67 * C, "x"), out(x.size()), out2 = out;
        std::vector<Branch> branch = normals<Branch>(67 * C, "branch");
        residual_forward(view(out, {67, C}), view(x, {67, C}), view(branch, {67, C}), {});
        for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(out[i], x[i] + static_cast<R>(branch[i]));
        residual_forward(view(out2, {67, C}), view(x, {67, C}), view(branch, {67, C}), {.threads = 3});
        EXPECT_TRUE(same_bits(out, out2));
        residual_forward(view(x, {67, C}), view(x, {67, C}), view(branch, {67, C}), {.threads = 2});
        EXPECT_TRUE(same_bits(out, x)) << "in place";
    }
}

TEST(Residual, AddsTheBranchInEveryDtype) {
    expect_sums<float, float>();
    expect_sums<float, bf16>();
    expect_sums<double, double>();
}

template <class To, class From>
std::vector<To> converted(std::vector<From> x, int threads = 1) {
    std::vector<To> out(x.size());
    const auto count = static_cast<int64_t>(x.size());
    convert(view(out, {1, count}), view(x, {1, count}), {.threads = threads});
    return out;
}

TEST(Convert, RoundsToNearestEven) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const std::vector<float> x{1.0f,
                               1 + 0x1p-8f,
                               1 + 0x1.8p-7f,
                               1 + 0x1.0002p-8f,
                               -1 - 0x1p-8f,
                               0x1p-133f,
                               -0.0f,
                               kInfinity,
                               -kInfinity,
                               std::numeric_limits<float>::max(),
                               std::numeric_limits<float>::denorm_min()};
    const std::vector<double> wanted{1,    1,         1 + 0x1p-6, 1 + 0x1p-7, -1, 0x1p-133,
                                     -0.0, kInfinity, -kInfinity, kInfinity,  0};
    EXPECT_TRUE(same_bits(widened(converted<bf16>(x)), wanted));
    // A NaN whose upper half alone would read as infinity.
    const float thin_nan = std::bit_cast<float>(0x7f800001u);
    for (const bf16 value : converted<bf16>(std::vector<float>(40, thin_nan)))
        EXPECT_TRUE(std::isnan(static_cast<float>(value)));
}

TEST(Convert, AgreesWithSingleConversionsInEveryPair) {
    const std::vector<double> wide = normals<double>(70001, "x");
    const std::vector<float> single(wide.begin(), wide.end());
    std::vector<bf16> half;
    for (const float value : single) half.push_back(bf16(value));
    EXPECT_TRUE(same_bits(converted<float>(wide), single));
    EXPECT_TRUE(same_bits(converted<bf16>(single), half));
    EXPECT_TRUE(same_bits(converted<bf16>(wide), half));
    EXPECT_TRUE(same_bits(converted<bf16>(half), half));
    EXPECT_TRUE(same_bits(converted<double>(half), widened(half)));
    EXPECT_TRUE(same_bits(converted<bf16>(converted<float>(half)), half));
    for (const int threads : {2, 3}) EXPECT_TRUE(same_bits(converted<bf16>(single, threads), half));
}

TEST(Residual, MismatchedShapesAndDtypesAreRefused) {
    std::vector<float> x(6), out(6), small(2);
    std::vector<bf16> half(6);
    std::vector<double> wide(6);
    EXPECT_THROW(residual_forward(view(out, {2, 3}), view(x, {3, 2}), view(x, {3, 2}), {}), Error);
    EXPECT_THROW(residual_forward(view(out, {2, 3}), view(x, {2, 3}), view(wide, {2, 3}), {}), Error);
    EXPECT_THROW(residual_forward(view(wide, {2, 3}), view(wide, {2, 3}), view(half, {2, 3}), {}), Error);
    EXPECT_THROW(residual_forward(view(half, {2, 3}), view(half, {2, 3}), view(half, {2, 3}), {}), Error);
    EXPECT_THROW(convert(view(half, {2, 3}), view(x, {3, 2}), {}), Error);
    const auto fused = [&](Tensor mean, Tensor rstd, Tensor gain) {
        residual_norm_forward(view(out, {2, 3}), view(half, {2, 3}), mean, rstd, view(x, {2, 3}), view(x, {2, 3}), gain,
                              {}, {}, {});
    };
    EXPECT_NO_THROW(fused({}, view(small, {2}), view(x, {3})));
    EXPECT_THROW(fused(view(small, {2}), view(small, {2}), view(x, {3})), Error);
    EXPECT_THROW(fused({}, view(small, {1}), view(x, {3})), Error);
    EXPECT_THROW(fused({}, view(small, {2}), view(x, {2})), Error);
}

}  // namespace
}  // namespace plimsoll
