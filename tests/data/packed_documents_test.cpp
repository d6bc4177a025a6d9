#include "data/packed_documents.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data/bigram_counts.h"
#include "data/loader.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int64_t kT = 1024;

PackedDocuments packed(const std::string& model) {
    return PackedDocuments(std::make_unique<BigramBackcopy>(tiny_shakespeare_bigrams(), BigramBackcopyOptions{.T = kT}),
                           model, kT, 7, -1);
}

TEST(PackedDocuments, AreWholeSequencesOneAfterTheOther) {
    const PackedDocuments dataset = packed("pretrain");
    const BigramBackcopy sequences(tiny_shakespeare_bigrams(), {.T = kT});
    Sample sample;
    for (const int64_t index : {0, 1, 77}) {
        dataset.sample(index, sample);
        ASSERT_EQ(static_cast<int64_t>(sample.tokens.size()), kT + 1);
        EXPECT_TRUE(std::ranges::is_sorted(sample.document_starts));
        std::vector<int64_t> starts{0};
        starts.insert(starts.end(), sample.document_starts.begin(), sample.document_starts.end());
        starts.push_back(kT + 1);
        for (size_t d = 0; d + 1 < starts.size(); ++d) {
            std::vector<int32_t> alone;
            sequences.append(index * (kT + 1) + static_cast<int64_t>(d), starts[d + 1] - starts[d], alone);
            EXPECT_TRUE(std::equal(alone.begin(), alone.end(), sample.tokens.begin() + starts[d]));
            EXPECT_EQ(alone.front(), sequences.bos_token());
        }
        Sample again;
        dataset.sample(index, again);
        EXPECT_EQ(again.tokens, sample.tokens);
    }
}

// The model's lengths over 128 Ki / T: see data/document_lengths.h. 2,000 rows of some 32 documents; the mean of so
// many draws of this spread lies within 5 %.
TEST(PackedDocuments, AreAsLongAsTheModelSays) {
    const PackedDocuments dataset = packed("pretrain");
    Sample sample;
    double documents = 0, longest = 0;
    constexpr int64_t kRows = 2000;
    for (int64_t row = 0; row < kRows; ++row) {
        dataset.sample(row, sample);
        documents += static_cast<double>(sample.document_starts.size()) + 1;
        int64_t begin = 0;
        for (const int64_t start : sample.document_starts)
            longest = std::max(longest, static_cast<double>(start - begin)), begin = start;
    }
    const double mean = kRows * kT / documents * (131072 / kT);
    EXPECT_NEAR(mean, 4500, 900);  // 3,962 in the corpus, more with twice as many long ones, less for cut ends
    EXPECT_GT(longest, 900);       // nearly a row
}

TEST(PackedDocuments, ConfigurationsAreChecked) {
    DataConfig config;
    config.documents = "pretrain";
    EXPECT_THROW(config.validate(), Error);
    config.document_mask = true;
    EXPECT_NO_THROW(config.validate());
    config.documents = "row";
    EXPECT_THROW(config.validate(), Error);
    config.source = "text", config.text = "x", config.documents = "prolong";
    EXPECT_THROW(config.validate(), Error);
}

TEST(PackedDocuments, LoaderGivesBoundsWithAndWithoutTokens) {
    for (const bool masked : {false, true}) {
        DataConfig config;
        if (masked) config.documents = "pretrain", config.document_mask = true;
        const Loader loader(config, Split::kTrain, {.T = 256, .seed = 3});
        for (const int64_t first : {0, 5})
            EXPECT_EQ(loader.document_bounds(first, 3), loader.load(first, 3).cu_seqlens);
        EXPECT_EQ(loader.document_bounds(0, 3).size() > 4, masked);
    }
}

}  // namespace
}  // namespace plimsoll
