#include <gtest/gtest.h>

#include "kernels/attention_tasks.h"
#include "kernels/embedding.h"
#include "kernels/global_norm.h"
#include "kernels/mlp.h"
#include "kernels/residual.h"
#include "kernels/rope.h"
#include "kernels/temperature.h"
#include "support/cuda_test.h"
#include "support/gate_oracle.h"
#include "support/updates.h"

namespace plimsoll {
namespace {

template <class T>
class CudaElementwise : public testing::Test {};
TYPED_TEST_SUITE(CudaElementwise, DeviceFloats);

// One exponential of 2 ulp, a quotient, a handful of products.
TYPED_TEST(CudaElementwise, ActivationsMatchTheCpuInFp64) {
    using T = TypeParam;
    for (const Activation kind : {Activation::kRelu, Activation::kGelu, Activation::kSwiglu})
        for (const auto& [N, F] : {std::pair<int64_t, int64_t>{1, 1}, {3, 5}, {40, 64}}) {
            const int64_t inputs = inputs_per_output(kind) * F;
            Input<T> x(N * inputs, "x", 2), dout(N * F, "dout");
            const auto outputs = static_cast<size_t>(N * F), all = x.rounded.size();
            std::vector<double> out(outputs), dx(all);
            activation_forward(view(out, {N, F}), x.cpu({N, inputs}), kind, {});
            activation_backward(view(dx, {N, inputs}), dout.cpu({N, F}), x.cpu({N, inputs}), kind, {});
            const OnDevice<T> on_dout(dout.rounded);
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> on_x(x.rounded), to(filled<T>(outputs, 9.0f));
                activation_forward(to.tensor({N, F}), on_x.tensor({N, inputs}), kind, on_gpu());
                std::vector<T> results = to.values();
                activation_backward(on_x.tensor({N, inputs}), on_dout.tensor({N, F}), on_x.tensor({N, inputs}), kind,
                                    on_gpu());  // in place
                append(results, on_x.values());
                return results;
            });
            expect_close(slice(seen, 0, outputs), out, 100, "out", 2);
            expect_close(slice(seen, outputs, all), dx, 200, "dx", 4);
        }
}

// One exponential of 2 ulp, a quotient, products of order one, and sums over as many tokens, heads or channels as z is
// the same for.
TYPED_TEST(CudaElementwise, GatesMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 5, NH = 3;
    for (const GateCase& c : gate_cases())
        for (const int64_t HS : {7, 64}) {
            const bool sigmoid =
                c.spec.function == GateFunction::kSigmoid && c.spec.combination == GateCombination::kMultiply;
            if (!sigmoid && (HS != 7 || (c.constant && !(c.heads && c.channels)))) continue;  // of every shape once
            SCOPED_TRACE(fmt::format("{}, HS {}", c.name(), HS));
            const Shape wide{N, NH, HS}, around{N, NH + 4, HS}, gate = c.z_shape(N, NH, HS);
            Input<T> y(around.elements(), "y"), dout(wide.elements(), "dout"), z(gate.elements(), "z", 2);
            Input<float> constant(gate.elements(), "z", 2);
            const size_t all = dout.rounded.size(), count = z.rounded.size();
            std::vector<double> out(all), dy(all), dz(count, 1);
            const auto of = [](Tensor t) { return t.slice_columns(2, NH); };
            const Tensor exact_z = c.constant ? constant.cpu(gate) : z.cpu(gate);
            gate_forward(view(out, wide), of(y.cpu(around)), exact_z, c.spec, {});
            gate_backward(view(dy, wide), view(dz, gate), dout.cpu(wide), of(y.cpu(around)), exact_z, c.spec,
                          Write::kAccumulate, {});
            const OnDevice<T> on_y(y.rounded), on_z(z.rounded);
            const OnDevice<float> on_constant(constant.rounded);
            const Tensor device_z = c.constant ? on_constant.tensor(gate) : on_z.tensor(gate);
            std::vector<float> dconstant;
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> to(filled<T>(y.rounded.size(), 3.0f)), grad(dout.rounded), to_z(filled<T>(count, 1));
                const OnDevice<float> to_constant(filled<float>(count, 1));
                gate_forward(of(to.tensor(around)), of(on_y.tensor(around)), device_z, c.spec, on_gpu());
                gate_backward(grad.tensor(wide), c.constant ? to_constant.tensor(gate) : to_z.tensor(gate),
                              grad.tensor(wide), of(on_y.tensor(around)), device_z, c.spec, Write::kAccumulate,
                              on_gpu());  // in place
                std::vector<T> results = to.values();
                append(results, grad.values());
                append(results, to_z.values());
                dconstant = to_constant.values();
                return results;
            });
            const size_t row = static_cast<size_t>((NH + 4) * HS), inner = static_cast<size_t>(NH * HS);
            std::vector<T> heads, others;
            for (size_t n = 0; n < N; ++n) {
                append(heads, slice(seen, n * row + 2 * HS, inner));
                append(others, slice(seen, n * row, 2 * HS));
                append(others, slice(seen, n * row + 2 * HS + inner, 2 * HS));
            }
            EXPECT_TRUE(same_bits(others, filled<T>(others.size(), 3.0f)));
            expect_close(heads, out, 60, "out", 4);
            expect_close(slice(seen, row * N, all), dy, 60, "dy");
            if (c.constant)
                expect_close(dconstant, dz, 200, "dz", 100);
            else
                expect_close(slice(seen, row * N + all, count), dz, 200, "dz", 30);
        }
}

// Without gaps between rows: the launch that has one row of all elements.
TYPED_TEST(CudaElementwise, GatesWithoutRowStridesMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 5, NH = 3;
    for (const int64_t HS : {7, 12, 64}) {
        const Shape wide{N, NH, HS};
        Input<T> y(wide.elements(), "y"), z(wide.elements(), "z", 2), dout(wide.elements(), "dout");
        const size_t all = y.rounded.size();
        std::vector<double> out(all), dy(all), dz(all);
        gate_forward(view(out, wide), y.cpu(wide), z.cpu(wide), {}, {});
        gate_backward(view(dy, wide), view(dz, wide), dout.cpu(wide), y.cpu(wide), z.cpu(wide), {}, Write::kOverwrite,
                      {});
        const OnDevice<T> on_y(y.rounded), on_z(z.rounded);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> to(filled<T>(all)), grad(dout.rounded), to_z(filled<T>(all));
            gate_forward(to.tensor(wide), on_y.tensor(wide), on_z.tensor(wide), {}, on_gpu());
            gate_backward(grad.tensor(wide), to_z.tensor(wide), grad.tensor(wide), on_y.tensor(wide), on_z.tensor(wide),
                          {}, Write::kOverwrite, on_gpu());  // in place
            std::vector<T> results = to.values();
            append(results, grad.values());
            append(results, to_z.values());
            return results;
        });
        expect_close(slice(seen, 0, all), out, 60, "out");
        expect_close(slice(seen, all, all), dy, 60, "dy");
        expect_close(slice(seen, 2 * all, all), dz, 200, "dz", 8);
    }
}

TYPED_TEST(CudaElementwise, SoftmaxOverHeadsMatchesTheCpuInFp64) {
    using T = TypeParam;
    for (const auto& [N, NH] : {std::pair<int64_t, int64_t>{1, 1}, {11, 3}, {9, 70}}) {
        const Shape shape{N, NH};
        Input<T> z(N * NH, "z", 2), dout(N * NH, "dout");
        const size_t all = z.rounded.size();
        std::vector<double> out(all), dz(all);
        head_softmax_forward(view(out, shape), z.cpu(shape), {});
        const OnDevice<T> on_z(z.rounded);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> to(filled<T>(all)), grad(dout.rounded);
            head_softmax_forward(to.tensor(shape), on_z.tensor(shape), on_gpu());
            head_softmax_backward(grad.tensor(shape), grad.tensor(shape), to.tensor(shape), on_gpu());  // in place
            std::vector<T> results = to.values();
            append(results, grad.values());
            return results;
        });
        expect_close(slice(seen, 0, all), out, 100, "out");
        // Backward reads the rounded output.
        std::vector<double> rounded = widened(slice(seen, 0, all));
        head_softmax_backward(view(dz, shape), dout.cpu(shape), view(rounded, shape), {});
        expect_close(slice(seen, all, all), dz, 100, "dz", static_cast<double>(NH));
    }
}

TYPED_TEST(CudaElementwise, GateOfAHeadMatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 11, NH = 3;
    for (const int64_t HS : {2, 4, 32, 96}) {
        Input<T> y(N * NH * HS, "y"), gate(N * NH, "gate", 2);
        std::vector<double> out = y.exact;
        head_gate_forward(view(out, {N, NH, HS}), gate.cpu({N, NH}), {});
        const OnDevice<T> on_gate(gate.rounded);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> on_y(y.rounded);
            head_gate_forward(on_y.tensor({N, NH, HS}), on_gate.tensor({N, NH}), on_gpu());
            return on_y.values();
        });
        expect_close(seen, out, 60, "out");
    }
}

// A tanh, an exponential, a logarithm and products; sums over a head's channels or over tokens.
TYPED_TEST(CudaElementwise, TemperaturesMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 9, H = 3;
    const std::vector<int32_t> positions{0, 1, 2, 0, 70'000, 5, 6, 7, 8};
    const OnDevice<int32_t> on_positions(positions);
    for (const auto& [token, position] : {std::pair{true, false}, {false, true}, {true, true}})
        for (const int64_t HS : {7, 64}) {
            const Shape wide{N, H, HS}, around{N, H + 4, HS}, heads{N, H};
            Input<T> x(around.elements(), "x"), dout(wide.elements(), "dout"), z(token ? N * H : 0, "z");
            Input<float> alpha(position ? H : 0, "alpha");
            const auto of = [](Tensor t) { return t.slice_columns(2, H); };
            const size_t all = dout.rounded.size(), rows = x.rounded.size();
            std::vector<double> out(all), dx(all), dz(z.exact.size()), dalpha(alpha.exact.size(), 1),
                dtau(position ? static_cast<size_t>(N * H) : 0);
            temperature_forward(view(out, wide), of(x.cpu(around)), z.cpu(heads), alpha.cpu({H}), positions, {});
            temperature_backward(view(dx, wide), view(dz, heads), view(dalpha, {H}), view(dtau, heads), dout.cpu(wide),
                                 of(x.cpu(around)), z.cpu(heads), alpha.cpu({H}), positions, Write::kAccumulate, {});
            const OnDevice<T> on_x(x.rounded), on_z(z.rounded);
            const OnDevice<float> on_alpha(alpha.rounded);
            std::vector<float> of_alpha;
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> to(filled<T>(all)), grad(dout.rounded), to_z(filled<T>(z.rounded.size()));
                const OnDevice<float> to_alpha(filled<float>(alpha.rounded.size(), 1)),
                    taus(filled<float>(dtau.size()));
                temperature_forward(to.tensor(wide), of(on_x.tensor(around)), on_z.tensor(heads), on_alpha.tensor({H}),
                                    on_positions.span(), on_gpu());
                temperature_backward(grad.tensor(wide), to_z.tensor(heads), to_alpha.tensor({H}), taus.tensor(heads),
                                     grad.tensor(wide), of(on_x.tensor(around)), on_z.tensor(heads),
                                     on_alpha.tensor({H}), on_positions.span(), Write::kAccumulate,
                                     on_gpu());  // in place
                of_alpha = to_alpha.values();
                std::vector<T> results = to.values();
                append(results, grad.values());
                append(results, to_z.values());
                return results;
            });
            EXPECT_GT(rows, all);
            expect_close(slice(seen, 0, all), out, 60, "out", 4);
            expect_close(slice(seen, all, all), dx, 60, "dx", 4);
            expect_close(slice(seen, 2 * all, z.rounded.size()), dz, 200, "dz", 30);
            expect_close(of_alpha, dalpha, 200, "dalpha", 300);
        }
}

TYPED_TEST(CudaElementwise, RopeMatchesTheCpuInFp64AndTurnsBack) {
    using T = TypeParam;
    const std::vector<int32_t> positions{0, 1, 5, 1000, 1'000'000};
    constexpr int64_t N = 5, H = 2, kAll = 3;
    const OnDevice<int32_t> on_positions(positions);
    for (const int64_t HS : {2, 64, 256}) {
        Input<T> x(N * kAll * HS, "x");
        std::vector<double> turned = x.exact;
        rope_forward(view(turned, {N, kAll, HS}).slice_columns(0, H), positions, 10000, {});
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> on_x(x.rounded);
            rope_forward(on_x.tensor({N, kAll, HS}).slice_columns(0, H), on_positions.span(), 10000, on_gpu());
            return on_x.values();
        });
        expect_close(seen, turned, 20, "rope");
        const OnDevice<T> back(seen);
        rope_backward(back.tensor({N, kAll, HS}).slice_columns(0, H), on_positions.span(), 10000, on_gpu());
        // Rounded twice in between.
        const std::vector<double> again = widened(back.values());
        for (size_t i = 0; i < again.size(); ++i)
            EXPECT_NEAR(again[i], x.exact[i], (std::is_same_v<T, bf16> ? 0.05 : 1e-5)) << i;
    }
}

TYPED_TEST(CudaElementwise, ConversionsAndSumsOfTheStream) {
    using T = TypeParam;
    for (const auto& [N, C] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {20, 64}}) {
        Input<float> x(N * C, "x");
        Input<T> branch(N * C, "branch");
        const auto all = static_cast<size_t>(N * C);
        std::vector<double> sum(all);
        residual_forward(view(sum, {N, C}), x.cpu({N, C}), branch.cpu({N, C}), {});
        const OnDevice<T> on_branch(branch.rounded);
        const auto seen = under_every_schedule<float>([&] {
            const OnDevice<float> on_x(x.rounded);
            residual_forward(on_x.tensor({N, C}), on_x.tensor({N, C}), on_branch.tensor({N, C}), on_gpu());
            return on_x.values();
        });
        expect_close(seen, sum, 2, "sum");
        const OnDevice<float> on_x(x.rounded), zeros(filled<float>(all, 3.0f));
        const OnDevice<T> converted(filled<T>(all, 0.0f));
        convert(converted.tensor({N, C}), on_x.tensor({N, C}), on_gpu());
        for (size_t i = 0; i < all; ++i) EXPECT_EQ(float(converted.values()[i]), float(T(x.rounded[i])));
        fill_zero(zeros.tensor({N, C}), on_gpu());
        EXPECT_EQ(zeros.values(), std::vector<float>(all));
    }
}

TEST(CudaEmbedding, LooksUpAndAddsRowsInOrder) {
    constexpr int64_t V = 300, P = 9, C = 133, N = 700;
    std::vector<int32_t> tokens, positions;
    for (int32_t n = 0; n < N; ++n) tokens.push_back(n % 3 ? (n * n + 7) % V : 2), positions.push_back(n % P);
    Input<float> token_table(V * C, "token"), position_table(P * C, "position"), dout(N * C, "dout");
    std::vector<double> out(N * C), dtoken(V * C, 0.5), dposition(P * C, 0.25);
    embedding_forward(view(out, {N, C}), tokens, positions, token_table.cpu({V, C}), position_table.cpu({P, C}), {});
    embedding_backward(view(dtoken, {V, C}), view(dposition, {P, C}), dout.cpu({N, C}), tokens, positions, {});
    const OnDevice<int32_t> on_tokens(tokens), on_positions(positions);
    const OnDevice<float> on_token(token_table.rounded), on_position(position_table.rounded), on_dout(dout.rounded);
    const auto seen = under_every_schedule<float>([&] {
        const OnDevice<float> to(filled<float>(N * C)), to_token(filled<float>(V * C, 0.5f)),
            to_position(filled<float>(P * C, 0.25f));
        embedding_forward(to.tensor({N, C}), on_tokens.span(), on_positions.span(), on_token.tensor({V, C}),
                          on_position.tensor({P, C}), on_gpu());
        embedding_backward(to_token.tensor({V, C}), to_position.tensor({P, C}), on_dout.tensor({N, C}),
                           on_tokens.span(), on_positions.span(), on_gpu());
        std::vector<float> results = to.values();
        append(results, to_token.values());
        append(results, to_position.values());
        return results;
    });
    expect_close(slice(seen, 0, N * C), out, 2, "out");
    expect_close(slice(seen, N * C, V * C), dtoken, 300, "dtoken", 30);
    expect_close(slice(seen, N * C + V * C, P * C), dposition, 100, "dposition", 20);
}

TEST(CudaOptimizer, StepsMatchTheCpuInFp64) {
    constexpr int64_t N = 1001;
    Input<float> param(N, "param"), grad(N, "grad"), m(N, "m", 0.1);
    std::vector<float> v = m.rounded;
    for (float& x : v) x *= x;
    const OnDevice<float> on_grad(grad.rounded);
    const auto compare = [&](auto&& step) {
        std::vector<double> p = param.exact, m1 = m.exact, v1(v.begin(), v.end()), g = grad.exact;
        step(view(p, {N}), view(m1, {N}), view(v1, {N}), view(g, {N}), Tensor{}, Exec{});
        const auto seen = under_every_schedule<float>([&] {
            const OnDevice<float> on_param(param.rounded), on_m(m.rounded), on_v(v);
            const OnDevice<bf16> working(filled<bf16>(N, 0.0f));
            step(on_param.tensor({N}), on_m.tensor({N}), on_v.tensor({N}), on_grad.tensor({N}), working.tensor({N}),
                 on_gpu());
            std::vector<float> results = on_param.values();
            const std::vector<bf16> rounded = working.values();
            for (size_t i = 0; i < N; ++i) EXPECT_EQ(rounded[i].bits, bf16(results[i]).bits);
            append(results, on_m.values());
            append(results, on_v.values());
            return results;
        });
        expect_close(slice(seen, 0, N), p, 20, "param");
        expect_close(slice(seen, N, N), m1, 20, "m");
        expect_close(slice(seen, 2 * N, N), v1, 20, "v");
    };
    for (const int64_t step : {1, 7}) {
        compare([&](Tensor p, Tensor m1, Tensor v1, Tensor g, Tensor working, const Exec& exec) {
            adamw_step(p, m1, v1, g, working,
                       {.lr = 0.01, .beta2 = 0.99, .weight_decay = 0.1, .gradient_scale = 0.5, .step = step}, exec);
        });
        compare([&](Tensor p, Tensor m1, Tensor, Tensor g, Tensor working, const Exec& exec) {
            sgd_step(p, m1, g, working, {.lr = 0.01, .weight_decay = 0.1, .gradient_scale = 0.5, .step = step}, exec);
        });
    }
}

// Nothing to update: the working copies are the parameters, rounded by the same random numbers, and so the same bits.
TEST(CudaOptimizer, RoundsStochasticallyLikeTheCpu) {
    constexpr int64_t kCount = 333;
    Input<float> param(kCount, "param");
    std::vector<float> zeros(kCount), m(kCount), v(kCount), buffer(kCount), p = param.rounded;
    std::vector<bf16> adamw(kCount), sgd(kCount);
    const WorkingRounding rounding{.stochastic = RandomStream(3, "rounding"), .first = 50};
    const auto update = [&](Tensor p1, Tensor m1, Tensor v1, Tensor g, Tensor b, Tensor w1, Tensor w2, const Exec& e) {
        adamw_step(p1, m1, v1, g, w1, {.rounding = rounding}, e);
        sgd_step(p1, b, g, w2, {.rounding = rounding}, e);
    };
    const Shape shape{kCount};
    update(view(p, shape), view(m, shape), view(v, shape), view(zeros, shape), view(buffer, shape), view(adamw, shape),
           view(sgd, shape), {});
    const auto seen = under_every_schedule<bf16>([&] {
        const OnDevice<float> on_p(param.rounded), on_m(zeros), on_v(zeros), on_g(zeros), on_b(zeros);
        const OnDevice<bf16> one(filled<bf16>(kCount)), two(filled<bf16>(kCount));
        update(on_p.tensor(shape), on_m.tensor(shape), on_v.tensor(shape), on_g.tensor(shape), on_b.tensor(shape),
               one.tensor(shape), two.tensor(shape), on_gpu());
        std::vector<bf16> both = one.values();
        append(both, two.values());
        return both;
    });
    append(adamw, sgd);
    EXPECT_TRUE(same_bits(seen, adamw));
    EXPECT_TRUE(same_bits(slice(seen, 0, kCount), slice(seen, kCount, kCount)));
}

TEST(CudaGlobalNorm, MatchesTheCpu) {
    for (const int64_t count : {int64_t{1}, int64_t{1000}, kNormBlock + 3}) {
        Input<float> x(count, "x");
        const double wanted = sum_of_squares(x.cpu({count}), {});
        const OnDevice<float> on_x(x.rounded);
        const auto seen = under_every_schedule<double>(
            [&] { return std::vector<double>{sum_of_squares(on_x.tensor({count}), on_gpu())}; });
        EXPECT_NEAR(seen[0], wanted, 1e-12 * wanted);  // both add in fp64
    }
}

}  // namespace
}  // namespace plimsoll
