#include "kernels/rank_sum.h"

#include <gtest/gtest.h>

#include "support/cuda_test.h"

namespace plimsoll {
namespace {

template <class T>
class CudaRankSum : public testing::Test {};
using SumTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaRankSum, SumTypes);

// ((0 + 1) + 2) + ... on both devices, to the bit: sizes around those of blocks, the own part in every place.
TYPED_TEST(CudaRankSum, AddsInRankOrder) {
    using T = TypeParam;
    for (const int64_t count : {1, 255, 257, 8193})
        for (const int64_t ranks : {2, 3, 5})
            for (int64_t rank = 0; rank < ranks; ++rank) {
                std::vector<T> own, others, expected(static_cast<size_t>(count));
                for (int64_t r = 0; r < ranks; ++r) {
                    const std::vector<T> part = normals<T>(count, "part " + std::to_string(r), std::pow(30.0, r % 3));
                    for (size_t i = 0; i < part.size(); ++i) expected[i] = r == 0 ? part[i] : expected[i] + part[i];
                    r == rank ? append(own, part) : append(others, part);
                }
                const OnDevice<T> on_device(own), others_there(others);
                rank_sum(on_device.tensor({count}), others_there.tensor({ranks - 1, count}), rank, on_gpu());
                EXPECT_TRUE(same_bits(on_device.values(), expected)) << count << ", rank " << rank << " of " << ranks;
                rank_sum(view(own, {count}), view(others, {ranks - 1, count}), rank, {.threads = 2});
                EXPECT_TRUE(same_bits(own, expected))
                    << count << ", rank " << rank << " of " << ranks << ", on the host";
            }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

TEST(RankSum, RefusesWhatDoesNotFit) {
    std::vector<float> own(4), others(8);
    std::vector<double> wide(8);
    EXPECT_THROW(rank_sum(view(own, {4}), view(others, {2, 4}), 3, {}), Error);
    EXPECT_THROW(rank_sum(view(own, {4}), view(others, {4, 2}), 0, {}), Error);
    EXPECT_THROW(rank_sum(view(own, {4}), view(wide, {2, 4}), 0, {}), Error);
}

}  // namespace
}  // namespace plimsoll
