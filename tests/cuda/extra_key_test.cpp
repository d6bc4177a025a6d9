#include "kernels/extra_key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "support/both_devices.h"

namespace plimsoll {
namespace {

template <class T>
class CudaExtraKey : public testing::Test {};
TYPED_TEST_SUITE(CudaExtraKey, DeviceFloats);

// Dot products of up to 65 terms, three exponentials of 2 ulp.
TYPED_TEST(CudaExtraKey, MatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 11, NH = 3;
    constexpr double kScale = 0.3;
    for (const int64_t HS : {5, 65})
        for (const bool shared : {false, true})
            for (const bool with_value : {false, true}) {
                const Shape wide{N, NH, HS}, per_head{shared ? 1 : NH, HS}, scores{N, NH}, states{NH, N};
                Given<T> q(wide, "q"), dout(wide, "dout"), gate(scores, "gate");
                Given<float> k(per_head, "k"), v(per_head, "v");
                Input<T> attention(wide.elements(), "out");
                Input<float> statistics(N * NH, "lse");
                statistics.rounded[4] = -std::numeric_limits<float>::infinity();  // of token 4, which saw no key
                statistics.exact[4] = -std::numeric_limits<double>::infinity();
                for (size_t c = 0; c < static_cast<size_t>(HS); ++c) {
                    const size_t at = 4 * NH * static_cast<size_t>(HS) + c;
                    attention.rounded[at] = T(0.0f), attention.exact[at] = 0;
                }
                Result<T> out(wide, attention), dq(wide, Input<T>(wide.elements(), "dq"));
                Result<float> lse(states, statistics), score(scores), dscore(scores), dk(per_head, 0.5f),
                    dv(per_head, 0.5f);
                const auto value = [&](Tensor t) { return with_value ? t : Tensor{}; };
                const auto tensors = [&](const Exec& exec) {
                    return AttentionTensors{.out = out.on(exec),
                                            .lse = lse.on(exec),
                                            .q = q.on(exec),
                                            .k = {},
                                            .v = {},
                                            .sink_logit = {},
                                            .gate = gate.on(exec)};
                };
                const auto key = [&](const Exec& exec) {
                    return ExtraKey{.k = k.on(exec), .v = value(v.on(exec)), .score = score.on(exec)};
                };
                const auto forward = [&](const Exec& exec) {
                    extra_key_forward(tensors(exec), key(exec), kScale, exec);
                };
                const auto backward = [&](const Exec& exec) {
                    const ExtraKey d{.k = dk.on(exec), .v = value(dv.on(exec)), .score = dscore.on(exec)};
                    extra_key_backward(d, dout.on(exec), tensors(exec), key(exec), kScale, Write::kAccumulate, exec);
                    extra_key_backward_query(dq.on(exec), d.score, k.on(exec), kScale, exec);
                };
                forward(Exec{});
                run_on_device({&out, &lse, &score, &dscore, &dk, &dv, &dq},
                              [&](const Exec& exec) { forward(exec), backward(exec); });
                SCOPED_TRACE(fmt::format("HS {}, shared {}, value {}", HS, shared, with_value));
                out.expect_close(200, "out", 4);
                lse.expect_close(200, "lse", 4);
                score.expect_close(200, "score", 4);
                std::ranges::copy(widened(out.there()),
                                  out.here().begin());  // backward starts from it as it was stored
                backward(Exec{});
                dscore.expect_close(1000, "dscore", 16);
                dk.expect_close(1000, "dk", 32);
                dv.expect_close(1000, "dv", 16);
                dq.expect_close(1000, "dq", 16);
            }
}

TYPED_TEST(CudaExtraKey, BiasesOfHeadsMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 70, NH = 3, HS = 36;
    const Shape wide{N, NH, HS};
    for (const int64_t rows : {1, 3}) {
        const Shape per_head{rows, HS};
        Given<T> x(wide, "x");
        Given<float> bias(per_head, "bias");
        Result<T> out(wide);
        Result<float> dbias(per_head, 7.0f);
        run_on_both({&out, &dbias}, [&](const Exec& exec) {
            head_bias_forward(out.on(exec), x.on(exec), bias.on(exec), exec);
            head_bias_backward(dbias.on(exec), x.on(exec), Write::kOverwrite, exec);
        });
        out.expect_close(2, "out");
        dbias.expect_close(300, "dbias", 30);
    }
}

}  // namespace
}  // namespace plimsoll
