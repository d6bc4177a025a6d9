#include "kernels/decorrelation.h"

#include <gtest/gtest.h>

#include "support/cuda_test.h"

namespace plimsoll {
namespace {

TEST(CudaDecorrelation, MatchesTheCpuInFp64) {
    for (const auto& [N, C] : {std::pair<int64_t, int64_t>{1, 5}, {11, 37}, {300, 64}}) {
        Input<float> h(N * C, "h", 2), dh(N * C, "dh");
        std::vector<int32_t> positions;
        for (int32_t n = 0; n < N; ++n) positions.push_back(n % 7);
        std::vector<double> squares(static_cast<size_t>(N)), sum{0.5};
        decorrelation_backward(dh.cpu({N, C}), view(sum, {1}), view(squares, {N}), h.cpu({N, C}), positions, 0.7, {});
        const OnDevice<float> on_h(h.rounded);
        const OnDevice<int32_t> on_positions(positions);
        const auto seen = under_every_schedule<float>([&] {
            const OnDevice<float> grad(dh.rounded), on_squares(filled<float>(squares.size(), -7));
            const OnDevice<double> total({0.5});
            decorrelation_backward(grad.tensor({N, C}), total.tensor({1}), on_squares.tensor({N}), on_h.tensor({N, C}),
                                   on_positions.span(), 0.7, on_gpu());
            EXPECT_NEAR(total.values()[0], sum[0], 1e-5 * sum[0]);  // N roundings of fp32, at random
            std::vector<float> results = grad.values();
            append(results, on_squares.values());
            return results;
        });
        const size_t count = dh.rounded.size();
        expect_close(slice(seen, 0, count), dh.exact, 60, "dh");
        expect_close(slice(seen, count, squares.size()), squares, 60, "squares");
    }
}

}  // namespace
}  // namespace plimsoll
