#include "kernels/extra_key.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "support/cuda_test.h"

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
                const auto own = static_cast<size_t>(per_head.elements());
                const auto heads = static_cast<size_t>(N * NH);
                Input<T> q(wide.elements(), "q"), out(wide.elements(), "out"), dout(wide.elements(), "dout"),
                    gate(N * NH, "gate"), dq(wide.elements(), "dq");
                Input<float> k(per_head.elements(), "k"), v(per_head.elements(), "v"), lse(N * NH, "lse");
                lse.rounded[4] = -std::numeric_limits<float>::infinity();  // of token 4, which saw no key
                lse.exact[4] = -std::numeric_limits<double>::infinity();
                for (size_t c = 0; c < static_cast<size_t>(HS); ++c)
                    out.rounded[4 * NH * static_cast<size_t>(HS) + c] = T(0.0f),
                                                                   out.exact[4 * NH * static_cast<size_t>(HS) + c] = 0;
                std::vector<double> score(heads), dscore(heads), dk(own, 0.5), dv(own, 0.5),
                    y = out.exact, sums = lse.exact, to_dq = dq.exact;
                const auto value = [&](Tensor t) { return with_value ? t : Tensor{}; };
                const AttentionTensors t{.out = view(y, wide),
                                         .lse = view(sums, states),
                                         .q = q.cpu(wide),
                                         .k = {},
                                         .v = {},
                                         .sink_logit = {},
                                         .gate = gate.cpu(scores)};
                const ExtraKey key{.k = k.cpu(per_head), .v = value(v.cpu(per_head)), .score = view(score, scores)};
                const ExtraKey d{
                    .k = view(dk, per_head), .v = value(view(dv, per_head)), .score = view(dscore, scores)};
                extra_key_forward(t, key, kScale, {});

                const OnDevice<T> on_q(q.rounded), on_gate(gate.rounded), on_dout(dout.rounded);
                const OnDevice<float> on_k(k.rounded), on_v(v.rounded);
                std::vector<T> seen_out, seen_dq;
                const auto seen = under_every_schedule<float>([&] {
                    const OnDevice<T> on_out(out.rounded), on_dq(dq.rounded);
                    const OnDevice<float> on_lse(lse.rounded), on_score(filled<float>(heads)),
                        on_dscore(filled<float>(heads)), on_dk(filled<float>(own, 0.5f)),
                        on_dv(filled<float>(own, 0.5f));
                    const AttentionTensors there{.out = on_out.tensor(wide),
                                                 .lse = on_lse.tensor(states),
                                                 .q = on_q.tensor(wide),
                                                 .k = {},
                                                 .v = {},
                                                 .sink_logit = {},
                                                 .gate = on_gate.tensor(scores)};
                    const ExtraKey extra{.k = on_k.tensor(per_head),
                                         .v = value(on_v.tensor(per_head)),
                                         .score = on_score.tensor(scores)};
                    const ExtraKey gradients{.k = on_dk.tensor(per_head),
                                             .v = value(on_dv.tensor(per_head)),
                                             .score = on_dscore.tensor(scores)};
                    extra_key_forward(there, extra, kScale, on_gpu());
                    extra_key_backward(gradients, on_dout.tensor(wide), there, extra, kScale, Write::kAccumulate,
                                       on_gpu());
                    extra_key_backward_query(on_dq.tensor(wide), gradients.score, extra.k, kScale, on_gpu());
                    seen_out = on_out.values(), seen_dq = on_dq.values();
                    std::vector<float> results = on_lse.values();
                    for (const OnDevice<float>* more : {&on_score, &on_dscore, &on_dk, &on_dv})
                        append(results, more->values());
                    return results;
                });
                SCOPED_TRACE(fmt::format("HS {}, shared {}, value {}", HS, shared, with_value));
                expect_close(seen_out, y, 200, "out", 4);
                expect_close(slice(seen, 0, heads), sums, 200, "lse", 4);
                expect_close(slice(seen, heads, heads), score, 200, "score", 4);
                std::ranges::copy(widened(seen_out), y.begin());  // backward starts from it as it was stored
                extra_key_backward(d, dout.cpu(wide), t, key, kScale, Write::kAccumulate, {});
                extra_key_backward_query(view(to_dq, wide), d.score, key.k, kScale, {});
                expect_close(slice(seen, 2 * heads, heads), dscore, 1000, "dscore", 16);
                expect_close(slice(seen, 3 * heads, own), dk, 1000, "dk", 32);
                if (with_value) expect_close(slice(seen, 3 * heads + own, own), dv, 1000, "dv", 16);
                expect_close(seen_dq, to_dq, 1000, "dq", 16);
            }
}

TYPED_TEST(CudaExtraKey, BiasesOfHeadsMatchTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 70, NH = 3, HS = 36;
    const Shape wide{N, NH, HS};
    for (const int64_t rows : {1, 3}) {
        const Shape per_head{rows, HS};
        Input<T> x(wide.elements(), "x");
        Input<float> bias(per_head.elements(), "bias");
        const size_t all = x.rounded.size(), own = bias.rounded.size();
        std::vector<double> out(all), dbias(own);
        head_bias_forward(view(out, wide), x.cpu(wide), bias.cpu(per_head), {});
        head_bias_backward(view(dbias, per_head), x.cpu(wide), Write::kOverwrite, {});
        const OnDevice<T> on_x(x.rounded);
        const OnDevice<float> on_bias(bias.rounded);
        std::vector<float> sums;
        const auto seen = under_every_schedule<T>([&] {
            const OnDevice<T> to(filled<T>(all));
            const OnDevice<float> to_bias(filled<float>(own, 7.0f));
            head_bias_forward(to.tensor(wide), on_x.tensor(wide), on_bias.tensor(per_head), on_gpu());
            head_bias_backward(to_bias.tensor(per_head), on_x.tensor(wide), Write::kOverwrite, on_gpu());
            sums = to_bias.values();
            return to.values();
        });
        expect_close(seen, out, 2, "out");
        expect_close(sums, dbias, 300, "dbias", 30);
    }
}

}  // namespace
}  // namespace plimsoll
