// Chunked cross entropy against the formula in double over whole rows.
#include "kernels/cross_entropy.h"

#include "tests/support/kernel_test.h"
#include "tests/support/tolerance.h"

namespace plimsoll {
namespace {

// Targets of all kinds: every seventh row is not scored.
std::vector<int32_t> some_targets(int64_t N, int64_t V) {
    std::vector<int32_t> targets;
    for (int64_t n = 0; n < N; ++n) targets.push_back(n % 7 == 3 ? -1 : static_cast<int32_t>(n * 31 % V));
    return targets;
}

template <class T>
struct Pass {
    using R = Accumulator<T>;
    int64_t N, V;
    double logit_scale = 1;
    std::vector<int32_t> targets = some_targets(N, V);
    std::vector<T> logits = normals<T>(N * V, "logits", logit_scale), gradient = logits;
    std::vector<R> max = normals<R>(N, "max"), sum = normals<R>(N, "sum"), target_logit = max, nll = max, lse = max;

    // In chunks of `chunk` columns, which are slices of the whole and so have a row stride.
    void run(int64_t chunk, double scale, double z_loss, int threads = 1) {
        const CrossEntropyState state{view(max, {N}), view(sum, {N}), view(target_logit, {N})};
        const Exec exec{.threads = threads};
        cross_entropy_begin(state, exec);
        for (int64_t v0 = 0; v0 < V; v0 += chunk)
            cross_entropy_accumulate(state, view(logits, {N, V}).slice_columns(v0, std::min(chunk, V - v0)), v0,
                                     targets, exec);
        cross_entropy_finish(view(nll, {N}), view(lse, {N}), state, targets, exec);
        gradient = logits;
        for (int64_t v0 = 0; v0 < V; v0 += chunk)
            cross_entropy_gradient(view(gradient, {N, V}).slice_columns(v0, std::min(chunk, V - v0)), v0,
                                   view(lse, {N}), targets, scale, z_loss, exec);
    }
};

struct Oracle {
    std::vector<double> nll, lse, gradient;
    Oracle(const std::vector<double>& logits, const std::vector<int32_t>& targets, double scale, double z_loss) {
        const size_t V = logits.size() / targets.size();
        for (size_t n = 0; n < targets.size(); ++n) {
            const double* row = &logits[n * V];
            const double highest = *std::max_element(row, row + V);
            double total = 0;
            for (size_t v = 0; v < V; ++v) total += std::exp(row[v] - highest);
            lse.push_back(highest + std::log(total));
            nll.push_back(targets[n] < 0 ? 0 : lse[n] - row[targets[n]]);
            for (size_t v = 0; v < V; ++v) {
                const double hit = static_cast<int32_t>(v) == targets[n] ? 1 : 0;
                gradient.push_back(
                    targets[n] < 0 ? 0 : scale * (std::exp(row[v] - lse[n]) * (1 + 2 * z_loss * lse[n]) - hit));
            }
        }
    }
};

template <class T>
class CrossEntropyTest : public testing::Test {};
TYPED_TEST_SUITE(CrossEntropyTest, AllFloats);

TYPED_TEST(CrossEntropyTest, FollowsTheFormulaForEveryChunkSize) {
    for (const int64_t V : {1, 3, 17, 31, 65, 95, 2100})
        for (const int64_t chunk : {int64_t{1}, int64_t{7}, V}) {
            if (V / chunk > 300) continue;
            Pass<TypeParam> pass{.N = 17, .V = V};
            const Oracle oracle(widened(pass.logits), pass.targets, 0.25, 1e-2);
            pass.run(chunk, 0.25, 1e-2);
            // nll and lse are sums of a logit below 5 and the logarithm of a sum of up to 300 rescaled parts; they are
            // kept in the arithmetic's dtype, so bf16 rounds only the gradient.
            expect_close(pass.lse, oracle.lse, 30, "lse", 5);
            expect_close(pass.nll, oracle.nll, 30, "nll", 5);
            expect_close(pass.gradient, oracle.gradient, 30, "gradient",
                         2);  // softmax <= 1: lse's error of 10 roundings enters it
        }
}

TYPED_TEST(CrossEntropyTest, AWholeVocabularyHasTheBitsOfTheFourOps) {
    for (const int64_t V : {1, 17, 2100})
        for (const int threads : {1, 3}) {
            Pass<TypeParam> apart{.N = 17, .V = V}, whole{.N = 17, .V = V};
            apart.run(V, 0.25, 1e-2);
            cross_entropy_whole(view(whole.nll, {17}), view(whole.lse, {17}), view(whole.logits, {17, V}),
                                {view(whole.max, {17}), view(whole.sum, {17}), view(whole.target_logit, {17})},
                                whole.targets, 0.25, 1e-2, {.threads = threads});
            EXPECT_TRUE(same_bits(whole.nll, apart.nll) && same_bits(whole.lse, apart.lse)) << V;
            EXPECT_TRUE(same_bits(whole.logits, apart.gradient)) << V;
        }
}

TYPED_TEST(CrossEntropyTest, HugeLogitsNeitherOverflowNorLoseTheLoss) {
    Pass<TypeParam> pass{.N = 17, .V = 65, .logit_scale = 1e4};
    const Oracle oracle(widened(pass.logits), pass.targets, 1, 0);
    pass.run(16, 1, 0);
    expect_close(pass.lse, oracle.lse, 2, "lse", 1e4);
    expect_close(pass.nll, oracle.nll, 2, "nll", 1e4);
    // lse near 3e4 is rounded to about 1e-3 in fp32, which enters softmax as such.
    expect_close(pass.gradient, oracle.gradient, 4, "gradient", 3e4);
}

TYPED_TEST(CrossEntropyTest, ThreadsAndRepetitionDoNotChangeBits) {
    Pass<TypeParam> one{.N = 35, .V = 1201};
    one.run(500, 1, 1e-4);
    for (const int threads : {1, 2, 3}) {
        Pass<TypeParam> many{.N = 35, .V = 1201};
        many.run(500, 1, 1e-4, threads);
        EXPECT_TRUE(same_bits(one.nll, many.nll) && same_bits(one.lse, many.lse) &&
                    same_bits(one.gradient, many.gradient))
            << threads;
    }
}

TYPED_TEST(CrossEntropyTest, MaskedColumnsCountNothingAndFaultsShow) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
    Pass<TypeParam> pass{.N = 3, .V = 40};
    pass.targets = {35, 0, 39};
    for (size_t v = 0; v < 34; ++v) pass.logits[v] = TypeParam(-kInfinity);  // more than the first chunk of row 0
    pass.logits[40 + 20] = TypeParam(kNaN);                                  // row 1
    const std::vector<double> seen = [&] {
        const std::vector<double> all = widened(pass.logits);
        return std::vector<double>(all.begin() + 34, all.begin() + 40);
    }();
    const Oracle oracle(seen, {1}, 1, 0);
    pass.run(16, 1, 0);
    EXPECT_NEAR(static_cast<double>(pass.nll[0]), oracle.nll[0], 30 * kRounding<TypeParam> * 5);
    for (size_t v = 0; v < 34; ++v) EXPECT_EQ(static_cast<double>(pass.gradient[v]), 0);
    EXPECT_TRUE(std::isnan(pass.nll[1]));
    EXPECT_TRUE(std::isfinite(pass.nll[2]));
    pass.targets[2] = 40;  // beyond every chunk
    pass.run(16, 1, 0);
    EXPECT_TRUE(std::isnan(pass.nll[2]));
}

TEST(CrossEntropy, GradientMatchesCentralDifferences) {
    for (const int64_t chunk : {2, 5}) {
        constexpr double kScale = 0.5, kZLoss = 0.05;
        Pass<double> pass{.N = 9, .V = 5};
        pass.run(chunk, kScale, kZLoss);
        const std::vector<double> gradient = pass.gradient;
        expect_gradient(
            pass.logits, gradient,
            [&] {
                pass.run(chunk, kScale, kZLoss);
                double loss = 0;
                for (size_t n = 0; n < 9; ++n)
                    if (pass.targets[n] >= 0) loss += kScale * (pass.nll[n] + kZLoss * pass.lse[n] * pass.lse[n]);
                return loss;
            },
            "logits");
    }
}

TEST(CrossEntropy, UnscoredRowsGetZerosWhateverTheyHold) {
    std::vector<float> logits(6, std::numeric_limits<float>::quiet_NaN()), lse(2, 1);
    cross_entropy_gradient(view(logits, {2, 3}), 0, view(lse, {2}), std::vector<int32_t>{-1, -1}, 1, 0, {});
    EXPECT_EQ(logits, std::vector<float>(6, 0));
}

TEST(CrossEntropy, MismatchedShapesAndDtypesAreRefused) {
    Pass<float> pass{.N = 4, .V = 3};
    CrossEntropyState state{view(pass.max, {4}), view(pass.sum, {4}), view(pass.target_logit, {4})};
    std::vector<double> wide(12);
    EXPECT_NO_THROW(cross_entropy_accumulate(state, view(pass.logits, {4, 3}), 0, pass.targets, {}));
    EXPECT_THROW(cross_entropy_accumulate(state, view(wide, {4, 3}), 0, pass.targets, {}), Error);
    EXPECT_THROW(cross_entropy_accumulate(state, view(pass.logits, {3, 4}), 0, pass.targets, {}), Error);
    EXPECT_THROW(cross_entropy_accumulate(state, view(pass.logits, {4, 3}), -1, pass.targets, {}), Error);
    EXPECT_THROW(cross_entropy_gradient(view(pass.logits, {4, 3}), 0, view(wide, {4}), pass.targets, 1, 0, {}), Error);
    EXPECT_THROW(cross_entropy_finish(view(pass.nll, {3}), view(pass.lse, {4}), state, pass.targets, {}), Error);
    state.sum = view(pass.sum, {3});
    EXPECT_THROW(cross_entropy_begin(state, {}), Error);
}

}  // namespace
}  // namespace plimsoll
