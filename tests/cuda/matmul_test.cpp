#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/cross_entropy.h"
#include "kernels/gemm_choices.h"
#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class T>
class CudaMatmul : public testing::Test {};
TYPED_TEST_SUITE(CudaMatmul, DeviceFloats);

TYPED_TEST(CudaMatmul, ProductsMatchTheCpuInFp64) {
    using T = TypeParam;
    for (const auto& [N, I, O] : {std::array<int64_t, 3>{1, 1, 1}, {5, 7, 3}, {33, 16, 40}}) {
        Input<T> x(N * I, "x"), weight(O * I, "w"), dout(N * O, "dout");
        Input<float> bias(O, "bias");
        const auto outputs = static_cast<size_t>(N * O), inputs = static_cast<size_t>(N * I),
                   weights = static_cast<size_t>(O * I), o = static_cast<size_t>(O);
        std::vector<double> out(outputs), dx(inputs, 0.5), dweight(weights, 0.5), dbias(o, 0.5);
        // A bf16 output gets its bias rounded to bf16.
        std::vector<double> rounded_bias = widened(std::vector<T>(bias.rounded.begin(), bias.rounded.end()));
        matmul_forward(view(out, {N, O}), x.cpu({N, I}), weight.cpu({O, I}), view(rounded_bias, {O}), {});
        matmul_backward_input(view(dx, {N, I}), dout.cpu({N, O}), weight.cpu({O, I}), Write::kAccumulate, {});
        matmul_backward_weight(view(dweight, {O, I}), view(dbias, {O}), dout.cpu({N, O}), x.cpu({N, I}),
                               Write::kAccumulate, {});
        const OnDevice<T> on_x(x.rounded), on_weight(weight.rounded), on_dout(dout.rounded);
        const OnDevice<float> on_bias(bias.rounded);
        const auto seen = under_every_schedule<float>([&] {
            const OnDevice<T> to(filled<T>(outputs, 0.0f)), to_x(filled<T>(inputs, 0.5f));
            const OnDevice<float> to_weight(filled<float>(weights, 0.5f)), to_bias(filled<float>(o, 0.5f));
            matmul_forward(to.tensor({N, O}), on_x.tensor({N, I}), on_weight.tensor({O, I}), on_bias.tensor({O}),
                           on_gpu());
            matmul_backward_input(to_x.tensor({N, I}), on_dout.tensor({N, O}), on_weight.tensor({O, I}),
                                  Write::kAccumulate, on_gpu());
            matmul_backward_weight(to_weight.tensor({O, I}), to_bias.tensor({O}), on_dout.tensor({N, O}),
                                   on_x.tensor({N, I}), Write::kAccumulate, on_gpu());
            expect_close(to.values(), out, 200, "out", 10);
            expect_close(to_x.values(), dx, 200, "dx", 10);
            std::vector<float> results = to_weight.values();
            append(results, to_bias.values());
            return results;
        });
        expect_close(slice(seen, 0, weights), dweight, 200, "dweight", 10);
        expect_close(slice(seen, weights, o), dbias, 200, "dbias", 10);
    }
}

// With the activation behind the product, and the bias gradient beside it: what cuBLASLt's epilogues compute.
TYPED_TEST(CudaMatmul, ProductsWithActivationsMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 9, I = 16, F = 24, O = 8;
    for (const Activation kind : {Activation::kGelu, Activation::kRelu, Activation::kSwiglu}) {
        const int64_t U = inputs_per_output(kind) * F;
        Input<T> x(N * I, "x"), weight(U * I, "w", 0.3), down(O * F, "down"), dout(N * O, "dout");
        const auto acts = static_cast<size_t>(N * F), ups = static_cast<size_t>(N * U),
                   weights = static_cast<size_t>(U * I), u = static_cast<size_t>(U);
        std::vector<double> act(acts), up(ups), dact(acts), dup(ups), dweight(weights), dbias(u);
        std::vector<double> bias = widened(normals<T>(U, "bias"));
        matmul_activation_forward(view(act, {N, F}), view(up, {N, U}), x.cpu({N, I}), weight.cpu({U, I}),
                                  view(bias, {U}), kind, {});
        matmul_activation_backward(view(dup, {N, U}), view(dact, {N, F}), dout.cpu({N, O}), down.cpu({O, F}),
                                   view(up, {N, U}), kind, {});
        matmul_backward_weight(view(dweight, {U, I}), view(dbias, {U}), view(dup, {N, U}), x.cpu({N, I}),
                               Write::kOverwrite, {});
        const OnDevice<T> on_x(x.rounded), on_weight(weight.rounded), on_down(down.rounded), on_dout(dout.rounded);
        const OnDevice<float> on_bias(std::vector<float>(bias.begin(), bias.end()));
        // In bf16 up, dact and what is made of them are each rounded, by 2^-9 of themselves.
        const auto near = [](const std::vector<T>& seen, const std::vector<double>& wanted) {
            const double rounding = std::is_same_v<T, float> ? 1e-5 : 1e-2;
            for (size_t i = 0; i < wanted.size(); ++i)
                EXPECT_NEAR(static_cast<float>(seen[i]), wanted[i], rounding * (1 + std::abs(wanted[i]))) << i;
        };
        under_every_schedule<float>([&] {
            const OnDevice<T> to_act(filled<T>(acts)), to_up(filled<T>(ups)), to_dact(filled<T>(acts));
            const OnDevice<T> apart(filled<T>(ups));
            const Tensor to_dup = kind == Activation::kSwiglu ? to_up.tensor({N, U}) : apart.tensor({N, U});
            const OnDevice<float> to_weight(filled<float>(weights, 7.0f)), to_bias(filled<float>(u, 7.0f));
            matmul_activation_forward(to_act.tensor({N, F}), to_up.tensor({N, U}), on_x.tensor({N, I}),
                                      on_weight.tensor({U, I}), on_bias.tensor({U}), kind, on_gpu());
            expect_close(to_up.values(), up, 200, "up", 10);
            near(to_act.values(), act);
            matmul_activation_backward(to_dup, to_dact.tensor({N, F}), on_dout.tensor({N, O}), on_down.tensor({O, F}),
                                       to_up.tensor({N, U}), kind, on_gpu());
            matmul_backward_weight(to_weight.tensor({U, I}), to_bias.tensor({U}), to_dup, on_x.tensor({N, I}),
                                   Write::kOverwrite, on_gpu());
            near(kind == Activation::kSwiglu ? to_up.values() : apart.values(), dup);
            std::vector<float> results = to_weight.values();
            append(results, to_bias.values());
            const double unit = std::is_same_v<T, float> ? 1e-5 : 2e-2;  // of sums of N rounded products
            for (size_t i = 0; i < weights; ++i) EXPECT_NEAR(results[i], dweight[i], unit * 10) << i;
            for (size_t i = 0; i < u; ++i) EXPECT_NEAR(results[weights + i], dbias[i], unit * 10) << i;
            return results;
        });
    }
}

TEST(CudaMatmulEdges, NoRowsGiveAGradientOfZero) {
    const OnDevice<float> dweight(filled<float>(6, 3.0f)), dbias(filled<float>(2, 3.0f)), some({1.0f});
    const Tensor x(some.data(), DType::kF32, {0, 3}, Device::kCuda),
        dout(some.data(), DType::kF32, {0, 2}, Device::kCuda);
    matmul_backward_weight(dweight.tensor({2, 3}), dbias.tensor({2}), dout, x, Write::kOverwrite, on_gpu());
    EXPECT_EQ(dweight.values(), std::vector<float>(6));
    EXPECT_EQ(dbias.values(), std::vector<float>(2));
    EXPECT_TRUE(device_reports().empty());
}

// On a GPU the first call of each shape times its algorithms on these operands: sums come out as if it had not.
TEST(CudaMatmulEdges, TimingAlgorithmsLeavesNoTrace) {
    const std::string path = testing::TempDir() + "/cuda_gemm_algorithms.txt";
    std::filesystem::remove(path);
    std::vector<std::string> warnings;
    keep_gemm_algorithms(
        path, [&](const std::string& warning) { warnings.push_back(warning); }, on_gpu());
    constexpr int64_t N = 40, I = 48, O = 56;  // of no other test
    Input<bf16> x(N * I, "x"), dout(N * O, "dout");
    Input<float> start(O * I, "start");
    std::vector<double> expected = start.exact;
    matmul_backward_weight(view(expected, {O, I}), {}, dout.cpu({N, O}), x.cpu({N, I}), Write::kAccumulate, {});
    const OnDevice<bf16> on_x(x.rounded), on_dout(dout.rounded);
    const auto sum = [&] {
        const OnDevice<float> to(start.rounded);
        matmul_backward_weight(to.tensor({O, I}), {}, on_dout.tensor({N, O}), on_x.tensor({N, I}), Write::kAccumulate,
                               on_gpu());
        return to.values();
    };
    const std::vector<float> first = sum(), second = sum();
    expect_close(first, expected, 200, "dweight", 10);
    EXPECT_TRUE(same_bits(first, second));
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    test_context().set_gemm_choices(nullptr);
}

template <class T>
class CudaCrossEntropy : public testing::Test {};
TYPED_TEST_SUITE(CudaCrossEntropy, DeviceFloats);

TYPED_TEST(CudaCrossEntropy, LossAndGradientMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 6;
    constexpr double kScale = 0.25, kZLoss = 1e-3;
    for (const int64_t V : {1, 67, 600})
        for (const int64_t chunk : {V, (V + 1) / 2}) {
            Input<T> logits(N * V, "logits", 4);
            const std::vector<int32_t> targets{0, static_cast<int32_t>(V - 1), -1, static_cast<int32_t>(V / 2), 0, -1};
            const auto run = [&]<class S, class R>(Tensor all, Tensor max, Tensor sum, Tensor target, Tensor nll,
                                                   Tensor lse, std::span<const int32_t> ids, const Exec& exec, S, R) {
                const CrossEntropyState state{max, sum, target};
                cross_entropy_begin(state, exec);
                for (int64_t v0 = 0; v0 < V; v0 += chunk)
                    cross_entropy_accumulate(state, all.slice_columns(v0, std::min(chunk, V - v0)), v0, ids, exec);
                cross_entropy_finish(nll, lse, state, ids, exec);
                for (int64_t v0 = 0; v0 < V; v0 += chunk)
                    cross_entropy_gradient(all.slice_columns(v0, std::min(chunk, V - v0)), v0, lse, ids, kScale, kZLoss,
                                           exec);
            };
            std::vector<double> gradient = logits.exact, max(N), sum(N), target(N), nll(N), lse(N);
            run(view(gradient, {N, V}), view(max, {N}), view(sum, {N}), view(target, {N}), view(nll, {N}),
                view(lse, {N}), targets, {}, 0.0, 0.0);
            const OnDevice<int32_t> ids(targets);
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> all(logits.rounded);
                const std::vector<float> rows(N, 0.0f);
                const OnDevice<float> m(rows), s(rows), t(rows), n(rows), l(rows);
                run(all.tensor({N, V}), m.tensor({N}), s.tensor({N}), t.tensor({N}), n.tensor({N}), l.tensor({N}),
                    ids.span(), on_gpu(), 0.0f, 0.0f);
                expect_close(n.values(), nll, 100, "nll", 16);
                expect_close(l.values(), lse, 100, "lse", 16);
                return all.values();
            });
            expect_close(seen, gradient, 200, "gradient", 1);
        }
}

// One pass over the row, with packs and without: the bits of the four ops, under every schedule.
TYPED_TEST(CudaMatmul, CrossEntropyOfAWholeVocabularyHasTheBitsOfTheFourOps) {
    using T = TypeParam;
    constexpr int64_t N = 5;
    for (const int64_t V : {int64_t{1}, int64_t{67}, int64_t{4100}, int64_t{4608}}) {
        Input<T> logits(N * V, "logits", 3);
        std::vector<int32_t> targets;
        for (int64_t n = 0; n < N; ++n) targets.push_back(n == 2 ? -1 : static_cast<int32_t>(n * 911 % V));
        const OnDevice<int32_t> on_targets(targets);
        const Exec exec = on_gpu();
        const OnDevice<float> max(filled<float>(N)), sum(max.values()), target(max.values()), nll(max.values()),
            lse(max.values());
        const CrossEntropyState state{max.tensor({N}), sum.tensor({N}), target.tensor({N})};
        const OnDevice<T> apart(logits.rounded);
        cross_entropy_begin(state, exec);
        cross_entropy_accumulate(state, apart.tensor({N, V}), 0, on_targets.span(), exec);
        cross_entropy_finish(nll.tensor({N}), lse.tensor({N}), state, on_targets.span(), exec);
        cross_entropy_gradient(apart.tensor({N, V}), 0, lse.tensor({N}), on_targets.span(), 0.5, 1e-2, exec);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> whole(logits.rounded);
            const OnDevice<float> to_nll(filled<float>(N)), to_lse(filled<float>(N));
            cross_entropy_whole(to_nll.tensor({N}), to_lse.tensor({N}), whole.tensor({N, V}), state, on_targets.span(),
                                0.5, 1e-2, exec);
            EXPECT_TRUE(same_bits(to_nll.values(), nll.values()) && same_bits(to_lse.values(), lse.values())) << V;
            return whole.values();
        });
        EXPECT_TRUE(same_bits(seen, apart.values())) << V;
    }
}

}  // namespace
}  // namespace plimsoll
