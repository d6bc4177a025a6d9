#include "data/document_lengths.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "data/shard_writer.h"
#include "data_test_support.h"

namespace plimsoll {
namespace {

struct Statistics {
    double mean = 0, median = 0, p99 = 0, most = 0;
    double long_documents = 0, long_tokens = 0, long_squares = 0;  // shares of documents from 32 Ki tokens on
};

Statistics statistics_of(const DocumentLengths& lengths) {
    constexpr int64_t kCount = 400000;
    std::vector<double> all;
    for (int64_t i = 0; i < kCount; ++i) all.push_back(static_cast<double>(lengths(i)));
    std::ranges::sort(all);
    Statistics s{.median = all[kCount / 2], .p99 = all[kCount * 99 / 100], .most = all.back()};
    double tokens = 0, squares = 0;
    for (const double length : all) {
        tokens += length, squares += length * length;
        if (length >= 32768) s.long_documents += 1, s.long_tokens += length, s.long_squares += length * length;
    }
    s.mean = tokens / kCount;
    s.long_documents /= kCount, s.long_tokens /= tokens, s.long_squares /= squares;
    return s;
}

DocumentLengths as_published(const std::string& model) {
    return DocumentLengths(model, {.context = 1 << 20}, 1);
}

// The published statistics, each within 4 %; shares of rare documents within what their rounding and 400,000 draws
// allow.
TEST(DocumentLengthsTest, PretrainFitsThePublishedStatistics) {
    const Statistics s = statistics_of(as_published("pretrain"));
    EXPECT_NEAR(s.mean, 3962, 0.02 * 3962);
    EXPECT_NEAR(s.median, 3227, 0.02 * 3227);
    EXPECT_NEAR(s.p99, 26070, 0.04 * 26070);
    EXPECT_NEAR(s.most, 124913, 0.001 * 124913);
    EXPECT_NEAR(s.long_documents, 0.009, 0.0005);
    EXPECT_NEAR(s.long_tokens, 0.17, 0.01);
    EXPECT_NEAR(s.long_squares, 0.78, 0.02);
}

TEST(DocumentLengthsTest, ProlongFitsThePublishedStatistics) {
    const Statistics s = statistics_of(as_published("prolong"));
    EXPECT_NEAR(s.mean, 3052, 0.03 * 3052);
    EXPECT_NEAR(s.median, 1914, 0.02 * 1914);
    EXPECT_NEAR(s.p99, 16273, 0.04 * 16273);
    EXPECT_NEAR(s.most, 340149, 0.02 * 340149);
    EXPECT_NEAR(s.long_documents, 0.002, 0.0002);
    EXPECT_NEAR(s.long_tokens, 0.049, 0.004);
    EXPECT_NEAR(s.long_squares, 0.53, 0.03);
}

TEST(DocumentLengthsTest, ALengthDependsOnSeedAndIndexAlone) {
    const DocumentLengths lengths = as_published("pretrain"), again = as_published("pretrain");
    std::vector<int64_t> backwards;
    for (int64_t i = 9; i >= 0; --i) backwards.push_back(lengths(i));
    for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(again(i), backwards[static_cast<size_t>(9 - i)]);
    const DocumentLengths other("pretrain", {.context = 1 << 20}, 2);
    int64_t equal = 0;
    for (int64_t i = 0; i < 100; ++i) equal += lengths(i) == other(i);
    EXPECT_LT(equal, 5);
}

TEST(DocumentLengthsTest, RulesReweighLengthenReplaceAndCut) {
    constexpr int64_t kCount = 100000;
    const std::vector<int64_t> list{1000, 70000};
    const auto count = [&](const LengthRules& rules, int64_t wanted) {
        const DocumentLengths lengths(list, "list", rules, 3);
        int64_t found = 0;
        for (int64_t i = 0; i < kCount; ++i) found += lengths(i) == wanted;
        return static_cast<double>(found) / kCount;
    };
    EXPECT_NEAR(count({.context = 131072}, 70000), 0.5, 0.01);
    const LengthRules twice{.context = 131072, .long_weight = 2, .short_weight = 0.9};
    EXPECT_NEAR(count(twice, 70000), 2 / 2.9, 0.01);
    EXPECT_NEAR(count({.context = 131072, .replaced = 0.3}, 131072), 0.15, 0.01);
    EXPECT_EQ(count({.context = 65536}, 70000), 0);
    EXPECT_NEAR(count({.context = 65536}, 65536), 0.5, 0.01);
    EXPECT_NEAR(count({.context = 524288, .lengthened_from = 65536}, 8000), 0.5, 0.01);
    EXPECT_NEAR(count({.context = 524288, .lengthened_from = 65536}, 524288), 0.5, 0.01);
}

TEST(DocumentLengthsTest, RefusesWhatCannotBeDrawn) {
    expect_error(ExitCode::kBadInput, {"'books'", "pretrain or prolong"}, [] { as_published("books"); });
    expect_error(ExitCode::kBadInput, {"some.txt", "no document lengths"},
                 [] { DocumentLengths({}, "some.txt", {}, 1); });
    expect_error(ExitCode::kBadInput, {"some.txt", "0 tokens"}, [] { DocumentLengths({5, 0}, "some.txt", {}, 1); });
    expect_error(ExitCode::kBadInput, {"none is kept"}, [] { DocumentLengths({5}, "x", {.short_weight = 0}, 1)(0); });
}

TEST(DocumentLengthsTest, ReadsAListOfLines) {
    const TemporaryFolder folder;
    EXPECT_EQ(read_lengths(write_bytes(folder / "a.txt", "# lengths\n12\n\n7\r\n131072")),
              (std::vector<int64_t>{12, 7, 131072}));
    for (const std::string line : {"12 3", "-1", "0", "1e3", "99999999999999999999", "x"})
        expect_error(ExitCode::kBadInput, {"b.txt:2", line},
                     [&] { read_lengths(write_bytes(folder / "b.txt", "5\n" + line + "\n")); });
}

TEST(DocumentLengthsTest, ReadsACorpus) {
    const TemporaryFolder folder;
    const std::string text =
        write_bytes(folder / "text.txt", "aaaa|bb|cccccc|dddd|ee|ffffff|aaaa|bb|cccccc|dddd|ee|fff");
    prepare_text(
        {.text = text, .out = folder / "shards", .val_fraction = 0.0, .separator = "|", .mark = DocumentMark::kIndex});
    const std::string pattern = folder / "shards/train_*.bin";
    const std::vector<int64_t> whole = lengths_of_shards(pattern);
    EXPECT_EQ(whole, (std::vector<int64_t>{5, 3, 7, 5, 3, 7, 5, 3, 7, 5, 3, 3}));  // separators stay

    DataConfig config{.source = "shards", .shards = pattern, .val_fraction = 0, .document_mask = true};
    const std::vector<int64_t> in_rows = lengths_of_corpus(config, 8, 4, 1);
    int64_t tokens = 0;
    for (const int64_t length : in_rows) tokens += length;
    EXPECT_EQ(tokens, 4 * 8);
    config.document_mask = false;
    expect_error(ExitCode::kBadInput, {"data.document_mask"}, [&] { lengths_of_corpus(config, 8, 4, 1); });
    expect_error(ExitCode::kBadInput, {"no shard matches"}, [&] { lengths_of_shards(folder / "none_*.bin"); });
}

}  // namespace
}  // namespace plimsoll
