#include "data/layout.h"

#include <gtest/gtest.h>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

using Ids = std::vector<int32_t>;

Batch place_one(const Sample& sample, const RowLayout& layout) {
    Batch batch;
    clear_batch(batch, 1, layout.T);
    place_sample(sample, layout, 0, batch);
    close_batch(batch);
    return batch;
}

// Eight real tokens 10 .. 17 and the last target 18; documents begin at 13 and 16.
Sample sample_of_nine() {
    Sample sample{.tokens = counting_ids(9), .document_starts = {3, 6}};
    for (int32_t& id : sample.tokens) id += 10;
    return sample;
}

TEST(Layout, WithoutPlaceholdersTokensAndTargetsAreTheSampleShiftedByOne) {
    const Batch batch = place_one(sample_of_nine(), {.T = 8, .vocab_size = 100});
    EXPECT_EQ(batch.tokens, (Ids{10, 11, 12, 13, 14, 15, 16, 17}));
    EXPECT_EQ(batch.targets, (Ids{11, 12, 13, 14, 15, 16, 17, 18}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 8})) << "without document_mask a row is one document";
}

TEST(Layout, PlaceholdersComeFirstAreUnscoredAndCutTheRow) {
    const Batch batch = place_one(sample_of_nine(), {.T = 8, .vocab_size = 100, .placeholders = 2});
    EXPECT_EQ(batch.tokens, (Ids{100, 101, 10, 11, 12, 13, 14, 15}));
    EXPECT_EQ(batch.targets, (Ids{-1, -1, 11, 12, 13, 14, 15, 16}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 3, 4, 5, 6, 7}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 8}));
}

TEST(Layout, DocumentMaskRestartsPositionsAndDropsTargetsAcrossDocuments) {
    const Batch batch = place_one(sample_of_nine(), {.T = 8, .vocab_size = 100, .document_mask = true});
    EXPECT_EQ(batch.tokens, (Ids{10, 11, 12, 13, 14, 15, 16, 17}));
    EXPECT_EQ(batch.targets, (Ids{11, 12, -1, 14, 15, -1, 17, 18}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 0, 1, 2, 0, 1}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 3, 6, 8}));
}

TEST(Layout, DocumentThatStartsAtTheLastTargetTakesThatTargetAway) {
    Sample sample = sample_of_nine();
    sample.document_starts = {8};
    const Batch batch = place_one(sample, {.T = 8, .vocab_size = 100, .document_mask = true});
    EXPECT_EQ(batch.targets.back(), -1);
    EXPECT_EQ(batch.targets[6], 17);
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 8}));
}

TEST(Layout, WithDocumentMaskEachDocumentHasItsPlaceholders) {
    const Batch batch =
        place_one(sample_of_nine(), {.T = 9, .vocab_size = 100, .placeholders = 1, .document_mask = true});
    EXPECT_EQ(batch.tokens, (Ids{100, 10, 11, 12, 100, 13, 14, 15, 100}));
    EXPECT_EQ(batch.targets, (Ids{-1, 11, 12, -1, -1, 14, 15, -1, -1}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 3, 0, 1, 2, 3, 0}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 4, 8, 9}));
}

// The property the comparison rests on, over every k below the shared one, with and without documents.
TEST(Layout, EqualSharedPlaceholdersGiveEqualScoredTargets) {
    const auto scored = [](const Batch& batch) {
        Ids pairs;  // (token read, target)
        for (size_t i = 0; i < batch.tokens.size(); ++i) {
            if (batch.targets[i] < 0) continue;
            pairs.push_back(batch.tokens[i]);
            pairs.push_back(batch.targets[i]);
        }
        return pairs;
    };
    for (const bool document_mask : {false, true}) {
        for (int64_t shared = 0; shared < 8; ++shared) {
            const auto row = [&](int64_t k) {
                return scored(place_one(sample_of_nine(), {.T = 8,
                                                           .vocab_size = 100,
                                                           .placeholders = k,
                                                           .shared_placeholders = shared,
                                                           .document_mask = document_mask}));
            };
            for (int64_t k = 0; k < shared; ++k) EXPECT_EQ(row(k), row(shared)) << "k " << k << " shared " << shared;
            if (!document_mask) {
                EXPECT_EQ(row(shared).size(), 2 * static_cast<size_t>(8 - shared));
            }
        }
    }
}

// A token that stands in a document's prefix is known to the position before it: a leaked target.
TEST(Layout, TargetsWithinThePrefixAreNotScored) {
    EXPECT_EQ(place_one(sample_of_nine(), {.T = 8, .vocab_size = 100, .prefix = 3}).targets,
              (Ids{-1, -1, 13, 14, 15, 16, 17, 18}));
    for (const int64_t none : {0, 1})
        EXPECT_EQ(place_one(sample_of_nine(), {.T = 8, .vocab_size = 100, .prefix = none}).targets,
                  (Ids{11, 12, 13, 14, 15, 16, 17, 18}));
    // By document, placeholders counted; one that is no longer than the prefix has no target.
    const RowLayout documents{.T = 9, .vocab_size = 100, .placeholders = 1, .document_mask = true, .prefix = 3};
    EXPECT_EQ(place_one(sample_of_nine(), documents).targets, (Ids{-1, -1, 12, -1, -1, -1, 15, -1, -1}));
    for (int64_t prefix = 0; prefix < 12; ++prefix)
        for (int64_t k = 0; k < 4; ++k) {
            const Batch batch =
                place_one(sample_of_nine(),
                          {.T = 9, .vocab_size = 100, .placeholders = k, .document_mask = true, .prefix = prefix});
            for (size_t i = 0; i < batch.targets.size(); ++i)
                if (batch.positions[i] + 1 < prefix) EXPECT_EQ(batch.targets[i], -1) << prefix << " " << k << " " << i;
        }
}

TEST(Layout, ShortSampleIsFilledUpUnscored) {
    const Sample sample{.tokens = {10, 11, 12}, .document_starts = {}};
    const Batch batch = place_one(sample, {.T = 5, .vocab_size = 100});
    EXPECT_EQ(batch.tokens, (Ids{10, 11, 0, 0, 0}));
    EXPECT_EQ(batch.targets, (Ids{11, 12, -1, -1, -1}));
    EXPECT_EQ(batch.positions, (Ids{0, 1, 2, 3, 4}));
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 5}));
}

TEST(Layout, RowsFollowEachOther) {
    Batch batch;
    const RowLayout layout{.T = 8, .vocab_size = 100, .document_mask = true};
    clear_batch(batch, 2, 8);
    place_sample(sample_of_nine(), layout, 0, batch);
    place_sample(sample_of_nine(), layout, 1, batch);
    close_batch(batch);
    EXPECT_EQ(batch.cu_seqlens, (Ids{0, 3, 6, 8, 11, 14, 16}));
    EXPECT_EQ(batch.tokens[8], 10);
}

TEST(Layout, BatchBeyondThirtyTwoBitOffsetsIsRefused) {
    Batch batch;
    expect_error(ExitCode::kInternal, {"65536 x 65536"}, [&] { clear_batch(batch, 65536, 65536); });
}

}  // namespace
}  // namespace plimsoll
