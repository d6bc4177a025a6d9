#include "dist/gradient_sync.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dist/as_ranks.h"
#include "dist/communicator_cases.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Layers -1 .. 3 with several parts each, of sizes that no number of ranks divides, with gaps between them.
std::vector<GradientPart> parts() {
    std::vector<GradientPart> list;
    int64_t at = 0;
    for (const auto& [layer, size] :
         {std::pair<int64_t, int64_t>{-1, 333}, {-1, 17}, {0, 100}, {0, 45}, {1, 7}, {2, 901}, {2, 1}, {3, 64}}) {
        list.push_back({{at, at + size}, layer});
        at += (size + 15) / 16 * 16;
    }
    return list;
}
int64_t elements() {
    return (parts().back().range.end + 15) / 16 * 16;
}

template <class T>
void expect_sums(int ranks, int64_t bucket_elements) {
    as_ranks(ranks, [&](Communicator& world) {
        std::vector<T> gradients = rough_vector<T>(world.rank(), static_cast<size_t>(elements()));
        GradientSync sync(world, flat(gradients), parts(), bucket_elements);
        for (int step = 0; step < 2; ++step) {
            std::ranges::copy(rough_vector<T>(world.rank(), gradients.size()), gradients.begin());
            for (int64_t layer = 3; layer >= -1; --layer) sync.on_ready(layer);
            sync.finish();
            for (size_t i = 0; i < gradients.size(); ++i)
                ASSERT_EQ(gradients[i], sum_over_ranks<T>(ranks, i)) << "element " << i << ", step " << step;
        }
    });
}

TEST(GradientSync, EveryRankGetsEverySumToTheBit) {
    for (const int ranks : {1, 2, 3, 4})
        for (const int64_t bucket : {int64_t{1}, int64_t{200}, int64_t{1} << 40})
            expect_sums<float>(ranks, bucket), expect_sums<double>(ranks, bucket);
}

TEST(GradientSync, BucketsAreWholeLayers) {
    Communicator world(single_transport());
    std::vector<float> gradients(static_cast<size_t>(elements()));
    const auto buckets = [&](int64_t size) { return GradientSync(world, flat(gradients), parts(), size).buckets(); };
    EXPECT_EQ(buckets(1), 5u);    // one per layer
    EXPECT_EQ(buckets(170), 3u);  // 3 with 2; 1 with 0, together 176 elements with their gaps; -1
    EXPECT_EQ(buckets(1 << 20), 1u);
}

// A bucket goes on its way when its last layer is ready, not before: what backward still adds to must not be sent.
TEST(GradientSync, NothingIsSentBeforeItIsComplete) {
    as_ranks(2, [](Communicator& world) {
        std::vector<float> gradients(static_cast<size_t>(elements()));
        GradientSync sync(world, flat(gradients), parts(), 170);
        sync.on_ready(3);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 0);  // its bucket waits for layer 2
        sync.on_ready(2);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 1);
        sync.on_ready(1);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 1);
        sync.on_ready(0), sync.on_ready(-1);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 3);
        sync.finish();
    });
}

TEST(GradientSync, ALayerThatWasNeverReadyIsAnError) {
    Communicator world(single_transport());
    std::vector<float> gradients(static_cast<size_t>(elements()));
    GradientSync sync(world, flat(gradients), parts(), 1);
    for (const int64_t layer : {3, 2, 1, 0}) sync.on_ready(layer);
    EXPECT_THROW(sync.finish(), Error);
}

}  // namespace
}  // namespace plimsoll
