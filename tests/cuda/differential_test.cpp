#include "kernels/differential.h"

#include <gtest/gtest.h>

#include "support/both_devices.h"

namespace plimsoll {
namespace {

template <class T>
class CudaDifferential : public testing::Test {};
TYPED_TEST_SUITE(CudaDifferential, DeviceFloats);

TYPED_TEST(CudaDifferential, MatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 7, P = 2;
    for (const int64_t W : {6, 80})
        for (const bool v1 : {true, false}) {
            const DifferentialSpec spec = v1 ? DifferentialSpec{.factor = 0.6, .eps = 1e-3} : DifferentialSpec{};
            const Shape maps{N, 2 * P, W}, pairs{N, P}, wide{N, P, W}, one{1};
            Given<T> y(maps, "y"), logits(pairs, "logits"), dout(wide, "dout");
            Given<float> lambda(one, "lambda"), gain({W}, "gain");
            Result<T> out(wide), dy(maps), dlogits(pairs);
            Result<float> rstd(pairs), parts(pairs), dlambda(one), dgain({W}, 0.5f);
            run_on_both({&out, &dy, &dlogits, &dlambda, &dgain}, [&](const Exec& exec) {
                const auto if_v1 = [&](Tensor t) { return v1 ? t : Tensor{}; };
                const DifferentialTensors t{.y = y.on(exec),
                                            .lambda = v1 ? lambda.on(exec) : logits.on(exec),
                                            .gain = if_v1(gain.on(exec)),
                                            .rstd = rstd.on(exec),
                                            .out = out.on(exec)};
                differential_forward(t, spec, exec);
                differential_backward({.y = dy.on(exec),
                                       .lambda = v1 ? dlambda.on(exec) : dlogits.on(exec),
                                       .gain = if_v1(dgain.on(exec)),
                                       .rstd = parts.on(exec),
                                       .out = dout.on(exec)},
                                      t, spec, Write::kAccumulate, exec);
            });
            SCOPED_TRACE(fmt::format("width {}, {}", W, v1 ? "V1" : "V2"));
            out.expect_close(100, "out", 8);
            dy.expect_close(300, "dy", 16);
            dlambda.expect_close(1000, "dlambda", 32);
            dgain.expect_close(300, "dgain", 16);
            dlogits.expect_close(300, "dlogits", 16);
        }
}

TYPED_TEST(CudaDifferential, RepeatsHeadsAndAddsThemUp) {
    using T = TypeParam;
    constexpr int64_t N = 5, H = 4, HS = 9;
    for (const int64_t block : {1, 2}) {
        const Shape whole{N, H + 1, HS}, twice{N, 2 * H, HS};
        Given<T> x(whole, "x"), dout(twice, "dout");
        Result<T> out(twice), dx(whole);
        run_on_both({&out, &dx}, [&](const Exec& exec) {
            repeat_heads_forward(out.on(exec), x.on(exec).slice_columns(1, H), block, exec);
            repeat_heads_backward(dx.on(exec).slice_columns(1, H), dout.on(exec), block, exec);
        });
        out.expect_close(0, "out");
        dx.expect_close(1, "dx");
    }
}

TEST(CudaDifferentialLambda, OfVectorsMatchesTheCpuInFp64) {
    constexpr int64_t HS = 37;
    Given<float> vectors({4, HS}, "vectors", 0.2), given({1}, "dlambda");
    Result<float> lambda({1}), d({4, HS}, 0.25f);
    run_on_both({&lambda, &d}, [&](const Exec& exec) {
        differential_lambda_forward(lambda.on(exec), vectors.on(exec), 0.3, exec);
        differential_lambda_backward(d.on(exec), given.on(exec), vectors.on(exec), Write::kAccumulate, exec);
    });
    lambda.expect_close(100, "lambda", 4);
    d.expect_close(100, "dvectors", 4);
}

}  // namespace
}  // namespace plimsoll
