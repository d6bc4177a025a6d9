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
    task.oracle_row({.previous = q, .current = blank}, row);
    EXPECT_EQ(row[static_cast<size_t>(q)], 1.0);
    EXPECT_EQ(std::accumulate(row.begin(), row.end(), 0.0), 1.0);
    task.oracle_row({.current = q}, row);
    const int64_t total = counts.unigrams[static_cast<size_t>(q)];
    for (int64_t next = 0; next < 65; ++next) {
        EXPECT_DOUBLE_EQ(row[static_cast<size_t>(next)],
                         static_cast<double>(counts.pair(q, next)) / static_cast<double>(total));
    }
    task.oracle_row({.current = task.bos_token()}, row);
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

constexpr const char* kTasks[] = {"bb", "backward", "markov", "delimiter"};

// The dynamic programme against plain averaging over sequences drawn by sample(), of the oracle's entropies and of what
// it gives the token that came. Means of sequences scatter by 0.3 nats at most, so those of 4,000 by 0.005; five of
// that are allowed, and twice as much for the mean over the quarter of the positions that hold triggers.
TEST(BigramBackcopy, FloorsMatchTheAverageOverSamples) {
    for (const char* name : kTasks)
        for (const bool bos : {true, false}) {
            SCOPED_TRACE(fmt::format("{}, bos {}", name, bos));
            const BigramBackcopy task = make_task({.T = 64, .task = name, .bos = bos, .seed = 9});
            std::vector<double> row(67);
            Sample sample;
            double nats = 0.0, copy_nats = 0.0, surprise = 0.0, triggers = 0.0;
            const int64_t sequences = 4000;
            for (int64_t index = 0; index < sequences; ++index) {
                task.sample(index, sample);
                BackcopyState state;
                for (size_t n = 0; n < 64; ++n) {
                    state = task.after(state, sample.tokens[n]);
                    triggers += task.is_trigger(state) ? 1 : 0;
                    task.oracle_row(state, row);
                    for (const double p : row)
                        (task.is_trigger(state) ? copy_nats : nats) -= p > 0 ? p * std::log(p) : 0.0;
                    surprise -= std::log(row[static_cast<size_t>(sample.tokens[n + 1])]);
                }
            }
            const auto floors = task.floors(64);
            const double positions = static_cast<double>(64 * sequences);
            EXPECT_NEAR(floors.overall, (nats + copy_nats) / positions, 0.025);
            EXPECT_NEAR(floors.overall, surprise / positions, 0.025);
            EXPECT_NEAR(floors.trigger_fraction, triggers / positions, 0.005);
            EXPECT_NEAR(floors.bigram, nats / (positions - triggers), 0.025);
            EXPECT_NEAR(floors.copy, triggers > 0 ? copy_nats / triggers : 0, 0.05);
        }
}

// Every sequence of a language of four characters, each with its probability: exact but for roundings.
TEST(BigramBackcopy, FloorsAreTheSumsOverAllSequences) {
    constexpr int64_t T = 6;
    for (const char* name : kTasks)
        for (const bool bos : {true, false}) {
            const BigramBackcopy task(count_bigrams("abcabdacbbadcadbaacabdca", "text"),
                                      {.T = T, .task = name, .triggers = 2, .delimiter = 0.2, .bos = bos});
            double nats[2] = {0, 0}, positions[2] = {0, 0}, first = 0;  // [trigger]
            const auto visit = [&](auto&& self, const BackcopyState& state, int64_t length,
                                   double probability) -> void {
                std::vector<double> row(6);
                task.oracle_row(state, row);
                EXPECT_NEAR(std::accumulate(row.begin(), row.end(), 0.0), 1, 1e-14);
                if (length > 0) {
                    double entropy = 0;
                    for (const double p : row) entropy -= p > 0 ? p * std::log(p) : 0;
                    nats[task.is_trigger(state)] += probability * entropy;
                    positions[task.is_trigger(state)] += probability;
                    if (bos && length == 1) first = entropy;
                }
                for (size_t next = 0; length < T && next < row.size(); ++next)
                    if (row[next] > 0)
                        self(self, task.after(state, static_cast<int32_t>(next)), length + 1, probability * row[next]);
            };
            if (bos)
                visit(visit, task.after({}, task.bos_token()), 1, 1);
            else
                visit(visit, {}, 0, 1);
            const auto floors = task.floors(T);
            SCOPED_TRACE(fmt::format("{}, bos {}", name, bos));
            EXPECT_NEAR(positions[0] + positions[1], T, 1e-12);
            EXPECT_NEAR(floors.bigram, nats[0] / positions[0], 1e-12);
            EXPECT_NEAR(floors.bigram_without_bos, (nats[0] - first) / (positions[0] - bos), 1e-12);
            EXPECT_NEAR(floors.copy, positions[1] > 0 ? nats[1] / positions[1] : 0, 1e-12);
            EXPECT_NEAR(floors.overall, (nats[0] + nats[1]) / T, 1e-12);
            EXPECT_NEAR(floors.overall_without_bos, (nats[0] + nats[1] - first) / (T - bos), 1e-12);
            EXPECT_NEAR(floors.trigger_fraction, positions[1] / T, 1e-12);
            EXPECT_EQ(floors.copy > 0, std::string(name) == "backward");
        }
}

// Without triggers the chain is the text's own, and its bigram floor tends to the text's bigram entropy of 2.4526 nats.
TEST(BigramBackcopy, MarkovIsTheChainOfTheText) {
    const BigramBackcopy task = make_task({.T = 256, .task = "markov", .seed = 3});
    const BigramCounts counts = tiny_shakespeare_bigrams();
    EXPECT_TRUE(task.triggers().empty());
    Sample sample;
    for (int64_t index = 0; index < 50; ++index) {
        task.sample(index, sample);
        for (size_t n = 1; n + 1 < sample.tokens.size(); ++n)
            ASSERT_GT(counts.pair(sample.tokens[n], sample.tokens[n + 1]), 0);
    }
    const auto floors = task.floors(256);
    EXPECT_NEAR(floors.overall_without_bos, 2.4526, 0.002);  // the text's last character is followed by nothing
    EXPECT_EQ(floors.trigger_fraction, 0);
    EXPECT_EQ(floors.copy, 0);
}

TEST(BigramBackcopy, BackwardDrawsASuccessorOfTheTokenBeforeATrigger) {
    const BigramBackcopy task = make_task({.T = 256, .task = "backward", .seed = 3});
    const BigramCounts counts = tiny_shakespeare_bigrams();
    Sample sample;
    int64_t triggers_first = 0, triggers_in_a_row = 0, others = 0;
    for (int64_t index = 0; index < 200; ++index) {
        task.sample(index, sample);
        const auto& s = sample.tokens;
        triggers_first += task.is_trigger(s[1]);
        for (size_t n = 2; n + 1 < s.size(); ++n) {
            const bool trigger = task.is_trigger(s[n]);
            ASSERT_GT(counts.pair(trigger ? s[n - 1] : s[n], s[n + 1]), 0) << "sample " << index << " position " << n;
            triggers_in_a_row += trigger && task.is_trigger(s[n - 1]);
            others += trigger && s[n + 1] != s[n - 1];
        }
    }
    EXPECT_NEAR(static_cast<double>(triggers_first), 200 * (0.1523 + 0.0848 + 0.0601), 30);  // 4.6 standard deviations
    EXPECT_GT(triggers_in_a_row, 0);
    EXPECT_GT(others, 0);
    std::vector<double> row(67), first(67);
    task.oracle_row({.previous = task.bos_token(), .current = task.triggers()[0]}, row);
    task.oracle_row({.current = task.bos_token()}, first);
    EXPECT_EQ(row, first);  // <s> has no successors but the unigrams
}

// Behind <d> a sequence with every id raised by one follows the rule of the beginning.
TEST(BigramBackcopy, ADelimiterRenamesTheLanguageOnce) {
    const BigramBackcopy task = make_task({.T = 256, .task = "delimiter", .delimiter = 0.01, .seed = 3});
    const BigramCounts counts = tiny_shakespeare_bigrams();
    Sample sample;
    int64_t delimiters = 0, non_triggers = 0, copies_behind = 0;
    for (int64_t index = 0; index < 200; ++index) {
        task.sample(index, sample);
        const auto& s = sample.tokens;
        BackcopyState state;
        bool behind = false;
        for (size_t n = 0; n + 1 < s.size(); ++n) {
            state = task.after(state, s[n]);
            const auto once = [&](int32_t id) { return behind ? (id + 1) % 65 : id; };
            if (n == 0 || s[n] == task.delimiter_token()) {
                delimiters += n > 0, behind = n > 0;
                ASSERT_FALSE(task.is_trigger(state));
                ASSERT_FALSE(task.is_trigger(once(s[n + 1])));
                continue;
            }
            ASSERT_EQ(task.is_trigger(state), task.is_trigger(once(s[n])));
            if (task.is_trigger(once(s[n]))) {
                ASSERT_EQ(s[n + 1], s[n - 1]);
                copies_behind += behind;
                continue;
            }
            non_triggers += !behind;
            if (s[n + 1] == task.delimiter_token())
                ASSERT_FALSE(behind);
            else
                ASSERT_GT(counts.pair(once(s[n]), once(s[n + 1])), 0);
        }
    }
    // Each non-trigger draws <d> with 0.01: 4.6 standard deviations of what that makes.
    const double expected = 0.01 * static_cast<double>(non_triggers);
    EXPECT_NEAR(static_cast<double>(delimiters), expected, 4.6 * std::sqrt(expected));
    EXPECT_GT(copies_behind, 1000);
}

TEST(BigramBackcopy, ImpossibleDelimitersAreRefused) {
    for (const double p : {0.0, 1.0, -0.1, std::nan("")})
        expect_error(ExitCode::kBadInput, {"data.delimiter", "above 0 and below 1"},
                     [&] { make_task({.T = 8, .task = "delimiter", .delimiter = p}); });
    EXPECT_NO_THROW(make_task({.T = 8, .task = "bb", .delimiter = 0}));
}

TEST(BigramBackcopy, TextWithAnUnfollowedLastCharacterStillHasAnOracle) {
    const BigramBackcopy task(count_bigrams("abababz", "text"), {.T = 8, .triggers = 1});
    std::vector<double> row(static_cast<size_t>(task.vocab_size()));
    task.oracle_row({.current = 2}, row);
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
    for (const char* name : {"backward", "markov", "delimiter"})
        EXPECT_NE(base, make_task({.T = 8, .task = name}).content_hash());
    EXPECT_NE(make_task({.T = 8, .task = "delimiter", .delimiter = 0.1}).content_hash(),
              make_task({.T = 8, .task = "delimiter"}).content_hash());
    EXPECT_EQ(base, make_task({.T = 8, .delimiter = 0.1}).content_hash());  // which task bb does not read
    EXPECT_NE(base, BigramBackcopy(count_bigrams(excerpt(), "excerpt"), {.T = 8}).content_hash());
}

}  // namespace
}  // namespace plimsoll
