#include "data/bigram_backcopy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

BigramBackcopy make_task(BigramBackcopyOptions options) {
    return BigramBackcopy(tiny_shakespeare_bigrams(), options);
}

TEST(BigramCounts, CountsPairsAndCharacters) {
    const BigramCounts counts = count_bigrams("abacb", "text");
    EXPECT_EQ(counts.characters, "abc");
    EXPECT_EQ(counts.unigrams, (std::vector<int64_t>{2, 2, 1}));
    EXPECT_EQ(counts.bigrams, (std::vector<int64_t>{0, 1, 1, 1, 0, 0, 0, 1, 0}));
}

TEST(BigramCounts, TooShortATextIsRefused) {
    expect_error(ExitCode::kBadInput, {"t.txt: 1 characters"}, [] { count_bigrams("a", "t.txt"); });
}

TEST(BigramCounts, TableInTheSourceTreeIsWhatTheCommandWrites) {
    const std::string path = std::string(PLIMSOLL_SOURCE_DIR) + "/data/tinyshakespeare_bigrams.cpp";
    EXPECT_EQ(bigram_table_source(tiny_shakespeare_bigrams()), read_file(path, "source"));
}

TEST(BigramCounts, TableSourceOfAShortTextHoldsItsCounts) {
    const std::string source = bigram_table_source(count_bigrams("abacb", "text"));
    EXPECT_NE(source.find("kCharacters[] = {\n    97, 98, 99,\n}"), std::string::npos) << source;
    EXPECT_NE(source.find("kUnigrams[] = {\n    2, 2, 1,\n}"), std::string::npos) << source;
    EXPECT_NE(source.find("kPairs[] = {\n    {0, 1, 1}, {0, 2, 1}, {1, 0, 1}, {2, 1, 1},\n}"), std::string::npos)
        << source;
}

// Figures of tiny Shakespeare: 1,115,394 characters, 65 distinct, blank 169,892, e 94,611, t 67,009.
TEST(BigramCounts, CompiledInTableIsTinyShakespeare) {
    const BigramCounts counts = tiny_shakespeare_bigrams();
    EXPECT_EQ(counts.n(), 65);
    const auto of = [&](char c) { return counts.unigrams[counts.characters.find(c)]; };
    EXPECT_EQ(of(' '), 169892);
    EXPECT_EQ(of('e'), 94611);
    EXPECT_EQ(of('t'), 67009);
    int64_t characters = 0, pairs = 0;
    for (int64_t first = 0; first < counts.n(); ++first) {
        int64_t row = 0;
        for (int64_t second = 0; second < counts.n(); ++second) row += counts.pair(first, second);
        const bool last_of_text = counts.characters[static_cast<size_t>(first)] == '\n';
        EXPECT_EQ(row, counts.unigrams[static_cast<size_t>(first)] - (last_of_text ? 1 : 0)) << "character " << first;
        characters += counts.unigrams[static_cast<size_t>(first)];
        pairs += row;
    }
    EXPECT_EQ(characters, 1115394);
    EXPECT_EQ(pairs, 1115393);
}

// A text of which the table's text is the beginning has counts at least as small everywhere.
TEST(BigramCounts, ExcerptOccursInTheTable) {
    const BigramCounts part = count_bigrams(excerpt(), "excerpt"), whole = tiny_shakespeare_bigrams();
    for (int64_t a = 0; a < part.n(); ++a) {
        for (int64_t b = 0; b < part.n(); ++b) {
            const auto id = [&](int64_t i) {
                return static_cast<int64_t>(whole.characters.find(part.characters[static_cast<size_t>(i)]));
            };
            ASSERT_LE(part.pair(a, b), whole.pair(id(a), id(b)));
        }
    }
}

TEST(BigramBackcopy, VocabularyAndTriggersAreThePapers) {
    const BigramBackcopy task = make_task({.T = 256, .triggers = 5});
    EXPECT_EQ(task.vocab_size(), 67);
    EXPECT_EQ(task.bos_token(), 65);
    std::string names;
    for (const int32_t id : task.triggers()) names += task.label(id);
    EXPECT_EQ(names,
              "\xe2\x90\xa3"
              "etoa");
    EXPECT_EQ(task.label(65), "<s>");
    EXPECT_EQ(task.label(66), "<d>");
    EXPECT_TRUE(task.is_trigger(task.triggers()[0]));
    EXPECT_FALSE(task.is_trigger(65));
    EXPECT_FALSE(task.is_trigger(66));
}

TEST(BigramBackcopy, SequencesFollowTheRule) {
    const BigramBackcopy task = make_task({.T = 256, .seed = 3});
    const BigramCounts counts = tiny_shakespeare_bigrams();
    Sample sample;
    for (int64_t index = 0; index < 200; ++index) {
        task.sample(index, sample);
        const auto& s = sample.tokens;
        ASSERT_EQ(s.size(), 257u);
        ASSERT_EQ(s[0], 65);
        ASSERT_FALSE(task.is_trigger(s[1]));
        for (size_t n = 1; n + 1 < s.size(); ++n) {
            if (task.is_trigger(s[n]))
                ASSERT_EQ(s[n + 1], s[n - 1]) << "sample " << index << " position " << n;
            else
                ASSERT_GT(counts.pair(s[n], s[n + 1]), 0) << "sample " << index << " position " << n;
        }
    }
}

// Drawn by a second implementation, in Python, from the text itself: Philox, the key, the counts and the rule in one.
TEST(BigramBackcopy, FirstTokensOfSampleZeroAreGolden) {
    const BigramBackcopy task = make_task({.T = 31, .seed = 42});
    Sample sample;
    task.sample(0, sample);
    std::string text;
    for (const int32_t id : sample.tokens) text += task.label(id) + " ";
    EXPECT_EQ(text,
              "<s> q u l l l e l e l \xe2\x90\xa3 l \xe2\x90\xa3 l e l c h o n e n c a t a l o u r \xe2\x90\xa3 r ");
}

TEST(BigramBackcopy, SamplesDependOnSeedIndexAndStreamOnly) {
    const auto draw = [](BigramBackcopyOptions options, int64_t index) {
        Sample sample;
        make_task(options).sample(index, sample);
        return sample.tokens;
    };
    const auto base = draw({.T = 64, .seed = 1}, 5);
    EXPECT_EQ(base, draw({.T = 64, .seed = 1, .samples = 100}, 5));
    EXPECT_NE(base, draw({.T = 64, .seed = 1}, 6));
    EXPECT_NE(base, draw({.T = 64, .seed = 2}, 5));
    EXPECT_NE(base, draw({.T = 64, .seed = 1, .stream = "validation"}, 5));
    const auto longer = draw({.T = 128, .seed = 1}, 5);
    EXPECT_TRUE(std::equal(base.begin(), base.end(), longer.begin())) << "a longer sample begins like a shorter one";
}

TEST(BigramBackcopy, WithoutBosTheSequenceBeginsWithACharacter) {
    const BigramBackcopy task = make_task({.T = 16, .bos = false, .seed = 1});
    Sample sample;
    for (int64_t index = 0; index < 50; ++index) {
        task.sample(index, sample);
        ASSERT_EQ(sample.tokens.size(), 17u);
        for (const int32_t id : sample.tokens) ASSERT_LT(id, 65);
        ASSERT_FALSE(task.is_trigger(sample.tokens[0]));
    }
}

TEST(BigramBackcopy, OracleRowsAreTheSamplingDistributions) {
    const BigramBackcopy task = make_task({.T = 256});
    const BigramCounts counts = tiny_shakespeare_bigrams();
    std::vector<double> row(67);
    const int32_t blank = task.triggers()[0], q = static_cast<int32_t>(counts.characters.find('q'));
    task.oracle_row(q, blank, row);
    EXPECT_EQ(row[static_cast<size_t>(q)], 1.0);
    EXPECT_EQ(std::accumulate(row.begin(), row.end(), 0.0), 1.0);
    task.oracle_row(-1, q, row);
    const int64_t total = counts.unigrams[static_cast<size_t>(q)];
    for (int64_t next = 0; next < 65; ++next) {
        EXPECT_DOUBLE_EQ(row[static_cast<size_t>(next)],
                         static_cast<double>(counts.pair(q, next)) / static_cast<double>(total));
    }
    task.oracle_row(-1, task.bos_token(), row);
    const double left = 1115394 - 169892 - 94611 - 67009;
    for (const int32_t trigger : task.triggers()) EXPECT_EQ(row[static_cast<size_t>(trigger)], 0.0);
    EXPECT_DOUBLE_EQ(row[static_cast<size_t>(q)], static_cast<double>(total) / left);
    EXPECT_NEAR(std::accumulate(row.begin(), row.end(), 0.0), 1.0, 1e-12);
}

// Published figures, to their last digit: bigram 2.2228, overall 1.6549 (T = 256, k = 3); 2.1350 / 1.4527 for k = 5.
TEST(BigramBackcopy, FloorsMatchThePublishedFigures) {
    const BigramBackcopy three = make_task({.T = 256});
    const auto at256 = three.floors(256), at128 = three.floors(128);
    EXPECT_NEAR(at256.bigram, 2.2228, 5e-5);
    EXPECT_NEAR(at256.overall, 1.6549, 5e-5);
    EXPECT_NEAR(at256.bigram_without_bos, 2.2165, 5e-5);
    EXPECT_NEAR(at256.overall_without_bos, 1.6480, 5e-5);
    EXPECT_NEAR(at256.trigger_fraction * 256, 65.4, 0.05);
    EXPECT_NEAR(at128.bigram, 2.2343, 5e-5);
    EXPECT_NEAR(at128.overall, 1.6691, 5e-5);
    EXPECT_NEAR(at128.bigram_without_bos, 2.2219, 5e-5);
    EXPECT_EQ(at256.copy, 0.0);
    const auto five = make_task({.T = 256, .triggers = 5}).floors(256);
    EXPECT_NEAR(five.bigram, 2.1350, 5e-5);
    EXPECT_NEAR(five.overall, 1.4527, 5e-5);
}

// The dynamic programme against plain averaging over sequences drawn by sample(): per-sequence means scatter by 0.2 to
// 0.3 nats, so that of 4,000 sequences by 0.005; five of that are allowed.
TEST(BigramBackcopy, FloorsMatchTheAverageOverSamples) {
    for (const bool bos : {true, false}) {
        const BigramBackcopy task = make_task({.T = 64, .bos = bos, .seed = 9});
        std::vector<double> row(67);
        Sample sample;
        double nats = 0.0, triggers = 0.0;
        const int64_t sequences = 4000;
        for (int64_t index = 0; index < sequences; ++index) {
            task.sample(index, sample);
            for (size_t n = 0; n < 64; ++n) {
                triggers += task.is_trigger(sample.tokens[n]) ? 1 : 0;
                task.oracle_row(n > 0 ? sample.tokens[n - 1] : -1, sample.tokens[n], row);
                for (const double p : row) nats -= p > 0 ? p * std::log(p) : 0.0;
            }
        }
        const auto floors = task.floors(64);
        const double positions = static_cast<double>(64 * sequences);
        EXPECT_NEAR(floors.overall, nats / positions, 0.025) << "bos " << bos;
        EXPECT_NEAR(floors.trigger_fraction, triggers / positions, 0.005) << "bos " << bos;
        EXPECT_NEAR(floors.bigram, nats / (positions - triggers), 0.025) << "bos " << bos;
    }
}

TEST(BigramBackcopy, TextWithAnUnfollowedLastCharacterStillHasAnOracle) {
    const BigramBackcopy task(count_bigrams("abababz", "text"), {.T = 8, .triggers = 1});
    std::vector<double> row(static_cast<size_t>(task.vocab_size()));
    task.oracle_row(-1, 2, row);
    EXPECT_NEAR(row[0], 3.0 / 7.0, 1e-15);
    EXPECT_NEAR(row[2], 1.0 / 7.0, 1e-15);
}

TEST(BigramBackcopy, ImpossibleTriggerCountsAreRefused) {
    for (const int64_t triggers : {-1, 65}) {
        expect_error(ExitCode::kBadInput, {fmt::format("data.triggers = {}", triggers), "0 to 64"},
                     [&] { make_task({.T = 8, .triggers = triggers}); });
    }
}

TEST(BigramBackcopy, ContentHashFollowsCountsAndOptions) {
    const uint64_t base = make_task({.T = 8}).content_hash();
    EXPECT_EQ(base, make_task({.T = 8}).content_hash());
    EXPECT_NE(base, make_task({.T = 8, .triggers = 5}).content_hash());
    EXPECT_NE(base, make_task({.T = 8, .seed = 1}).content_hash());
    EXPECT_NE(base, BigramBackcopy(count_bigrams(excerpt(), "excerpt"), {.T = 8}).content_hash());
}

}  // namespace
}  // namespace plimsoll
