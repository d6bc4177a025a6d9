#include "kernels/differential.h"

#include <gtest/gtest.h>

#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class T>
class CudaDifferential : public testing::Test {};
TYPED_TEST_SUITE(CudaDifferential, DeviceFloats);

TYPED_TEST(CudaDifferential, MatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 7, P = 2;
    for (const int64_t HS : {3, 40})
        for (const bool v1 : {true, false}) {
            const DifferentialSpec spec =
                v1 ? DifferentialSpec{.halves = 2, .group = 2, .factor = 0.6, .eps = 1e-3} : DifferentialSpec{};
            const int64_t W = spec.halves * HS;
            const Shape maps{N, 2 * P * spec.halves, HS}, pairs{N, P}, wide{N, P, W}, one{1};
            Input<T> y(maps.elements(), "y"), logits(N * P, "logits"), dout(wide.elements(), "dout");
            Input<float> lambda(1, "lambda"), gain(W, "gain");
            const auto all = static_cast<size_t>(maps.elements()), outputs = static_cast<size_t>(wide.elements()),
                       count = static_cast<size_t>(N * P), width = static_cast<size_t>(W);
            std::vector<double> out(outputs), rstd(count), dy(all), dlogits(count), dlambda(1), dgain(width, 0.5),
                parts(count);
            const auto if_v1 = [&](Tensor t) { return v1 ? t : Tensor{}; };
            const DifferentialTensors t{.y = y.cpu(maps),
                                        .lambda = v1 ? lambda.cpu(one) : logits.cpu(pairs),
                                        .gain = if_v1(gain.cpu({W})),
                                        .rstd = view(rstd, pairs),
                                        .out = view(out, wide)};
            differential_forward(t, spec, {});
            differential_backward({.y = view(dy, maps),
                                   .lambda = v1 ? view(dlambda, one) : view(dlogits, pairs),
                                   .gain = if_v1(view(dgain, {W})),
                                   .rstd = view(parts, pairs),
                                   .out = dout.cpu(wide)},
                                  t, spec, Write::kAccumulate, {});
            const OnDevice<T> on_y(y.rounded), on_logits(logits.rounded), on_dout(dout.rounded);
            const OnDevice<float> on_lambda(lambda.rounded), on_gain(gain.rounded);
            std::vector<float> sums;
            const auto seen = under_every_schedule<T>([&] {
                const OnDevice<T> to(filled<T>(outputs)), to_y(filled<T>(all)), to_logits(filled<T>(count));
                const OnDevice<float> to_rstd(filled<float>(count)), to_parts(filled<float>(count)),
                    to_lambda(filled<float>(1, 9)), to_gain(filled<float>(width, 0.5f));
                const DifferentialTensors there{.y = on_y.tensor(maps),
                                                .lambda = v1 ? on_lambda.tensor(one) : on_logits.tensor(pairs),
                                                .gain = if_v1(on_gain.tensor({W})),
                                                .rstd = to_rstd.tensor(pairs),
                                                .out = to.tensor(wide)};
                differential_forward(there, spec, on_gpu());
                differential_backward({.y = to_y.tensor(maps),
                                       .lambda = v1 ? to_lambda.tensor(one) : to_logits.tensor(pairs),
                                       .gain = if_v1(to_gain.tensor({W})),
                                       .rstd = to_parts.tensor(pairs),
                                       .out = on_dout.tensor(wide)},
                                      there, spec, Write::kAccumulate, on_gpu());
                std::vector<T> results = to.values();
                append(results, to_y.values());
                append(results, to_logits.values());
                sums = to_lambda.values();
                append(sums, to_gain.values());
                return results;
            });
            SCOPED_TRACE(fmt::format("HS {}, {}", HS, v1 ? "V1" : "V2"));
            expect_close(slice(seen, 0, outputs), out, 100, "out", 8);
            expect_close(slice(seen, outputs, all), dy, 300, "dy", 16);
            if (v1) {
                expect_close(slice(sums, 0, 1), dlambda, 1000, "dlambda", 32);
                expect_close(slice(sums, 1, width), dgain, 300, "dgain", 16);
            } else {
                expect_close(slice(seen, outputs + all, count), dlogits, 300, "dlogits", 16);
            }
        }
}

TYPED_TEST(CudaDifferential, RepeatsHeadsAndAddsThemUp) {
    using T = TypeParam;
    constexpr int64_t N = 5, H = 4, HS = 9;
    for (const int64_t block : {1, 2}) {
        const Shape whole{N, H + 1, HS}, twice{N, 2 * H, HS};
        Input<T> x(whole.elements(), "x"), dout(twice.elements(), "dout");
        std::vector<double> out(static_cast<size_t>(twice.elements())), dx(x.exact.size());
        repeat_heads_forward(view(out, twice), x.cpu(whole).slice_columns(1, H), block, {});
        repeat_heads_backward(view(dx, whole).slice_columns(1, H), dout.cpu(twice), block, {});
        const OnDevice<T> on_x(x.rounded), on_dout(dout.rounded);
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> to(filled<T>(out.size())), to_x(filled<T>(dx.size()));
            repeat_heads_forward(to.tensor(twice), on_x.tensor(whole).slice_columns(1, H), block, on_gpu());
            repeat_heads_backward(to_x.tensor(whole).slice_columns(1, H), on_dout.tensor(twice), block, on_gpu());
            std::vector<T> results = to.values();
            append(results, to_x.values());
            return results;
        });
        expect_close(slice(seen, 0, out.size()), out, 0, "out");
        expect_close(slice(seen, out.size(), dx.size()), dx, 1, "dx");
    }
}

TEST(CudaDifferentialLambda, OfVectorsMatchesTheCpuInFp64) {
    constexpr int64_t HS = 37;
    Input<float> vectors(4 * HS, "vectors", 0.2), given(1, "dlambda");
    std::vector<double> lambda(1), d(4 * HS, 0.25);
    differential_lambda_forward(view(lambda, {1}), vectors.cpu({4, HS}), 0.3, {});
    differential_lambda_backward(view(d, {4, HS}), given.cpu({1}), vectors.cpu({4, HS}), Write::kAccumulate, {});
    const OnDevice<float> on_vectors(vectors.rounded), on_given(given.rounded);
    const auto seen = under_every_schedule<float>([&] {
        const OnDevice<float> to(filled<float>(1)), to_d(filled<float>(4 * HS, 0.25f));
        differential_lambda_forward(to.tensor({1}), on_vectors.tensor({4, HS}), 0.3, on_gpu());
        differential_lambda_backward(to_d.tensor({4, HS}), on_given.tensor({1}), on_vectors.tensor({4, HS}),
                                     Write::kAccumulate, on_gpu());
        std::vector<float> results = to.values();
        append(results, to_d.values());
        return results;
    });
    expect_close(slice(seen, 0, 1), lambda, 100, "lambda", 4);
    expect_close(slice(seen, 1, 4 * HS), d, 100, "dvectors", 4);
}

}  // namespace
}  // namespace plimsoll
