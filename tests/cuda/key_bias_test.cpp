#include "kernels/key_bias.h"

#include <gtest/gtest.h>

#include <array>

#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class T>
class CudaKeyBias : public testing::Test {};
TYPED_TEST_SUITE(CudaKeyBias, DeviceFloats);

// Dot products of up to 65 terms; sums of gradients over three query heads, and over 70 rows. Values are a slice of
// wider rows, as of the fused map's; their gradients are added to what is there.
TYPED_TEST(CudaKeyBias, MatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t kAll = 4;
    for (const auto& [N, NH, NKV, HS] : {std::array<int64_t, 4>{70, 6, 2, 65}, std::array<int64_t, 4>{1, 1, 1, 5},
                                         std::array<int64_t, 4>{9, 3, 3, 36}}) {
        const Shape wide{N, kAll, HS}, weights{NH, HS}, biases{N, NH};
        Input<T> v(wide.elements(), "v"), dv(wide.elements(), "dv");
        Input<float> w(weights.elements(), "w"), dbias(biases.elements(), "dbias");
        std::vector<double> bias(dbias.exact.size()), to_dv = dv.exact, dw(w.exact.size(), 0.5);
        const auto values = [&](Tensor t) { return t.slice_columns(1, NKV); };
        key_bias_forward(view(bias, biases), values(v.cpu(wide)), w.cpu(weights), {});
        key_bias_backward(values(view(to_dv, wide)), view(dw, weights), dbias.cpu(biases), values(v.cpu(wide)),
                          w.cpu(weights), Write::kAccumulate, {});

        const OnDevice<T> on_v(v.rounded);
        const OnDevice<float> on_w(w.rounded), on_dbias(dbias.rounded);
        std::vector<T> seen_dv;
        const auto seen = under_every_schedule<float>([&] {
            const OnDevice<T> on_dv(dv.rounded);
            const OnDevice<float> on_bias(filled<float>(bias.size(), 7.0f)), on_dw(filled<float>(dw.size(), 0.5f));
            key_bias_forward(on_bias.tensor(biases), values(on_v.tensor(wide)), on_w.tensor(weights), on_gpu());
            key_bias_backward(values(on_dv.tensor(wide)), on_dw.tensor(weights), on_dbias.tensor(biases),
                              values(on_v.tensor(wide)), on_w.tensor(weights), Write::kAccumulate, on_gpu());
            seen_dv = on_dv.values();
            std::vector<float> results = on_bias.values();
            append(results, on_dw.values());
            return results;
        });
        SCOPED_TRACE(fmt::format("N {}, heads {} of {}, HS {}", N, NH, NKV, HS));
        expect_close(slice(seen, 0, bias.size()), bias, 100, "bias", 8);
        expect_close(slice(seen, bias.size(), dw.size()), dw, 300, "dw", 8);
        expect_close(seen_dv, to_dv, 30, "dv", 4);
    }
}

TEST(CudaKeyBiasWithoutTokens, WritesOnlyTheGradientOfWeights) {
    const OnDevice<float> some(filled<float>(8, 3.0f)), dw(filled<float>(8, 3.0f));
    const Shape none{0, 1, 4}, biases{0, 2}, weights{2, 4};
    key_bias_forward(some.tensor(biases), some.tensor(none), some.tensor(weights), on_gpu());
    key_bias_backward(some.tensor(none), dw.tensor(weights), some.tensor(biases), some.tensor(none),
                      some.tensor(weights), Write::kOverwrite, on_gpu());
    EXPECT_EQ(some.values(), filled<float>(8, 3.0f));
    EXPECT_EQ(dw.values(), filled<float>(8));
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

}  // namespace
}  // namespace plimsoll
