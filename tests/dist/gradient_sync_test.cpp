#include "dist/gradient_sync.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "dist/as_ranks.h"
#include "dist/communicator_cases.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Layers -1 .. 3 with several parts each, of sizes that no number of ranks divides, with gaps between them.
std::vector<LayerPart> parts() {
    std::vector<LayerPart> list;
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
        GradientSync sync(world, flat(gradients), ShardLayout(parts(), elements(), ranks, bucket_elements));
        for (int step = 0; step < 2; ++step) {
            std::ranges::copy(rough_vector<T>(world.rank(), gradients.size()), gradients.begin());
            for (int64_t layer = 3; layer >= -1; --layer) sync.on_ready(layer);
            sync.finish_sums();
            for (const ElementRange& range : sync.layout().owned(world.rank()))
                for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i)
                    ASSERT_EQ(gradients[i], sum_over_ranks<T>(ranks, i)) << "element " << i << ", step " << step;
            sync.gather({flat(gradients)});
            sync.await_all();
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

// Values of a layer are there after await() of it, before all of those behind it are.
TEST(GradientSync, LayersArriveInTheOrderForwardReadsThem) {
    as_ranks(3, [](Communicator& world) {
        std::vector<double> values(static_cast<size_t>(elements())), gradients(values.size());
        GradientSync sync(world, flat(gradients), ShardLayout(parts(), elements(), 3, 1));
        const auto value = [](size_t i) { return static_cast<double>(i) + 0.25; };
        for (const ElementRange& range : sync.layout().owned(world.rank()))
            for (auto i = static_cast<size_t>(range.begin); i < static_cast<size_t>(range.end); ++i)
                values[i] = value(i);
        sync.gather({flat(values)});
        for (int64_t layer = -1; layer <= 3; ++layer) {
            sync.await(layer);
            for (const LayerPart& part : parts())
                for (auto i = part.range.begin; i < part.range.end && part.layer <= layer; ++i)
                    ASSERT_EQ(values[static_cast<size_t>(i)], value(static_cast<size_t>(i))) << layer;
        }
        const double waits = world.stats(CommKind::kAllGather).wait_seconds;
        sync.await_all();  // nothing is left to wait for
        EXPECT_EQ(world.stats(CommKind::kAllGather).wait_seconds, waits);
    });
}

TEST(ShardLayout, BucketsAreWholeLayers) {
    const auto buckets = [&](int64_t size) { return ShardLayout(parts(), elements(), 1, size).buckets().size(); };
    EXPECT_EQ(buckets(1), 5u);    // one per layer
    EXPECT_EQ(buckets(170), 3u);  // 3 with 2; 1 with 0, together 176 elements with their gaps; -1
    EXPECT_EQ(buckets(1 << 20), 1u);
    const ShardLayout layout(parts(), elements(), 1, 170);
    EXPECT_EQ(layout.buckets()[1].first_layer, 0);
    EXPECT_EQ(layout.buckets()[1].last_layer, 1);
}

TEST(ShardLayout, RanksOwnEverythingOnce) {
    for (const int ranks : {1, 2, 3, 7})
        for (const int64_t bucket : {1, 170, 1 << 20}) {
            const ShardLayout layout(parts(), elements(), ranks, bucket);
            std::vector<int> owners(static_cast<size_t>(elements()));
            for (int rank = 0; rank < ranks; ++rank)
                for (const ElementRange& range : layout.owned(rank))
                    for (int64_t i = range.begin; i < range.end; ++i) owners[static_cast<size_t>(i)] += 1;
            EXPECT_EQ(owners, std::vector<int>(owners.size(), 1)) << ranks << " ranks, buckets of " << bucket;
        }
    const std::vector<ElementRange> whole = ShardLayout(parts(), elements(), 1, 1).owned(0);
    ASSERT_EQ(whole.size(), 1u);  // the shards of one rank are one range
    EXPECT_EQ(whole[0].size(), elements());
}

// Parts of 900 in units of 300, of 100 as a whole, of 33 in units of 16: no unit has two owners, and every element one.
TEST(ShardLayout, NoUnitIsCut) {
    std::vector<LayerPart> list;
    int64_t at = 0;
    for (const auto& [size, unit] :
         {std::pair<int64_t, int64_t>{33, 16}, {900, 304}, {100, 100}, {5, 1}, {100, 100}, {700, 1}, {64, 64}}) {
        list.push_back({.range = {at, at + size}, .layer = at / 1000, .unit = unit});
        at += (size + 15) / 16 * 16;
    }
    for (const int ranks : {1, 2, 3, 5, 40})
        for (const int64_t bucket : {int64_t{1}, int64_t{1} << 20}) {
            const ShardLayout layout(list, at, ranks, bucket);
            std::vector<int> owner(static_cast<size_t>(at), -1);
            for (int rank = 0; rank < ranks; ++rank)
                for (const ElementRange& range : layout.owned(rank)) {
                    EXPECT_EQ(range.begin % 16, 0) << "rows of 16 elements, for what copies them";
                    for (int64_t i = range.begin; i < range.end; ++i) {
                        EXPECT_EQ(owner[static_cast<size_t>(i)], -1);
                        owner[static_cast<size_t>(i)] = rank;
                    }
                }
            EXPECT_EQ(std::ranges::count(owner, -1), 0);
            for (const LayerPart& part : list)
                for (int64_t i = part.range.begin; i < part.range.end; ++i) {
                    const int64_t first = part.range.begin + (i - part.range.begin) / part.unit * part.unit;
                    ASSERT_EQ(owner[static_cast<size_t>(i)], owner[static_cast<size_t>(first)])
                        << "element " << i << ", " << ranks << " ranks";
                }
            // As near to equal shares as units allow: nobody has more than a share and a unit.
            for (int rank = 0; rank < ranks && bucket > 1; ++rank)
                EXPECT_LE(std::ranges::count(owner, rank), at / ranks + 16 + 304);
        }
}

// A bucket goes on its way when its last layer is ready, not before: what backward still adds to must not be sent.
TEST(GradientSync, NothingIsSentBeforeItIsComplete) {
    as_ranks(2, [](Communicator& world) {
        std::vector<float> gradients(static_cast<size_t>(elements()));
        GradientSync sync(world, flat(gradients), ShardLayout(parts(), elements(), 2, 170));
        sync.on_ready(3);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 0);  // its bucket waits for layer 2
        sync.on_ready(2);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 1);
        sync.on_ready(1);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 1);
        sync.on_ready(0), sync.on_ready(-1);
        EXPECT_EQ(world.stats(CommKind::kReduceScatter).calls, 3);
        sync.finish_sums();
    });
}

TEST(GradientSync, ALayerThatWasNeverReadyIsAnError) {
    Communicator world(single_transport());
    std::vector<float> gradients(static_cast<size_t>(elements()));
    GradientSync sync(world, flat(gradients), ShardLayout(parts(), elements(), 1, 1));
    for (const int64_t layer : {3, 2, 1, 0}) sync.on_ready(layer);
    EXPECT_THROW(sync.finish_sums(), Error);
}

}  // namespace
}  // namespace plimsoll
