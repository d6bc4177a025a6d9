#include "kernels/feature_map.h"

#include <gtest/gtest.h>

#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class T>
class CudaFeatureMap : public testing::Test {};
TYPED_TEST_SUITE(CudaFeatureMap, DeviceFloats);

TYPED_TEST(CudaFeatureMap, EluPlusOneMatchesTheCpuInFp64) {
    using T = TypeParam;
    constexpr int64_t N = 9, kAll = 4, H = 2, HS = 37;
    const Shape wide{N, kAll, HS}, narrow{N, H, HS};
    Input<T> x(wide.elements(), "x", 2), dout(narrow.elements(), "dout");
    const size_t count = dout.rounded.size();
    std::vector<double> out(count), dx(count);
    elu1_forward(view(out, narrow), x.cpu(wide).slice_columns(1, H), {});
    // Any numbers will do for what forward made.
    elu1_backward(view(dx, narrow), dout.cpu(narrow), x.cpu(wide).slice_columns(1, H), {});
    const OnDevice<T> on_x(x.rounded);
    const auto seen = under_every_schedule<T>([&] {
        const OnDevice<T> to(filled<T>(count)), grad(dout.rounded);
        elu1_forward(to.tensor(narrow), on_x.tensor(wide).slice_columns(1, H), on_gpu());
        elu1_backward(grad.tensor(narrow), grad.tensor(narrow), on_x.tensor(wide).slice_columns(1, H),
                      on_gpu());  // in place
        std::vector<T> results = to.values();
        append(results, grad.values());
        return results;
    });
    expect_close(slice(seen, 0, count), out, 60, "out");
    expect_close(slice(seen, count, count), dx, 60, "dx");
}

}  // namespace
}  // namespace plimsoll
