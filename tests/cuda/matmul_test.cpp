#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include "kernels/cross_entropy.h"
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

TEST(CudaMatmulEdges, NoRowsGiveAGradientOfZero) {
    const OnDevice<float> dweight(filled<float>(6, 3.0f)), dbias(filled<float>(2, 3.0f)), some({1.0f});
    const Tensor x(some.data(), DType::kF32, {0, 3}, Device::kCuda),
        dout(some.data(), DType::kF32, {0, 2}, Device::kCuda);
    matmul_backward_weight(dweight.tensor({2, 3}), dbias.tensor({2}), dout, x, Write::kOverwrite, on_gpu());
    EXPECT_EQ(dweight.values(), std::vector<float>(6));
    EXPECT_EQ(dbias.values(), std::vector<float>(2));
    EXPECT_TRUE(device_reports().empty());
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

}  // namespace
}  // namespace plimsoll
