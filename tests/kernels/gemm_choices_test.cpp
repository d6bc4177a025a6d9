// Which algorithm computes a product: the choice from times, and the file that keeps it, also damaged.
#include "kernels/gemm_choices.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <thread>

#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

constexpr const char *kMachine = "Card, sm_90, library 1, driver 13000", *kProduct = "64x32x16,nt,bf16-bf16,1";

GemmAlgorithm numbered(uint64_t number) {
    GemmAlgorithm algorithm;
    for (size_t i = 0; i < algorithm.words.size(); ++i) algorithm.words[i] = number * 0x9e3779b97f4a7c15u + i;
    return algorithm;
}

bool anything(const GemmAlgorithm& /*algorithm*/) {
    return true;
}

class GemmChoicesFile : public testing::Test {
  protected:
    GemmChoicesFile() {
        folder_ =
            fs::path(testing::TempDir()) / fmt::format("gemm_choices_{}_{}", ::getpid(),
                                                       testing::UnitTest::GetInstance()->current_test_info()->name());
        fs::remove_all(folder_);
        fs::create_directories(folder_);
        path_ = folder_ / "algorithms.txt";
    }
    ~GemmChoicesFile() override { fs::remove_all(folder_); }

    GemmChoices open(const std::string& machine = kMachine) {
        return {path_, machine, [this](const std::string& message) { warnings_.push_back(message); }};
    }
    // One candidate, `number`.
    std::optional<GemmAlgorithm> choose(GemmChoices& choices, uint64_t number, const std::string& product = kProduct) {
        return choices.choose(product, anything, [=] { return std::vector<TimedAlgorithm>{{numbered(number), 1e-4}}; });
    }
    std::string content() const {
        std::ifstream file(path_, std::ios::binary);
        return (std::ostringstream() << file.rdbuf()).str();
    }
    void put(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }
    void expect_warning(const std::string& part) {
        ASSERT_EQ(warnings_.size(), 1u);
        EXPECT_NE(warnings_[0].find(part), std::string::npos) << warnings_[0];
        EXPECT_NE(warnings_[0].find("gemm_cache"), std::string::npos) << warnings_[0];
    }

    fs::path folder_;
    std::string path_;
    std::vector<std::string> warnings_;
};

TEST(GemmProblem, EveryPartIsInItsText) {
    const GemmProblem one{.rows = 2,
                          .columns = 3,
                          .inner = 4,
                          .a_leading = 5,
                          .b_leading = 6,
                          .c_leading = 7,
                          .before_leading = 0,
                          .a_turned = false,
                          .b_turned = false,
                          .operands = DType::kBF16,
                          .result = DType::kBF16,
                          .accumulate = false,
                          .epilogue = "none",
                          .bias = false};
    EXPECT_EQ(one.text(), "2x3x4,nn,bf16-bf16,5.6.7.0,set,none");
    std::vector<GemmProblem> all(15, one);
    all[1].rows = all[2].columns = all[3].inner = all[4].a_leading = all[5].b_leading = all[6].c_leading = 9;
    all[7].before_leading = 9;
    all[8].a_turned = all[9].b_turned = all[10].accumulate = all[11].bias = true;
    all[12].operands = all[13].result = DType::kF32;
    all[14].epilogue = "gelu";
    std::set<std::string> texts;
    for (const GemmProblem& problem : all) texts.insert(problem.text());
    EXPECT_EQ(texts.size(), all.size());
    EXPECT_EQ(std::set<GemmProblem>(all.begin(), all.end()).size(), all.size());
    for (const std::string& text : texts) EXPECT_EQ(text.find_first_of(" \t\n"), std::string::npos) << text;
}

TEST(Fastest, IsTheFirstWithinNoiseOfTheLeast) {
    const auto of = [](std::vector<double> seconds) -> int {
        std::vector<TimedAlgorithm> timed;
        for (size_t i = 0; i < seconds.size(); ++i) timed.push_back({numbered(i), seconds[i]});
        const auto best = fastest(timed);
        for (size_t i = 0; i < seconds.size(); ++i)
            if (best && best->algorithm == numbered(i)) return static_cast<int>(i);
        return -1;
    };
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    EXPECT_EQ(of({3, 2, 1}), 2);
    EXPECT_EQ(of({1.009, 1.0, 2}), 0);  // the library's order decides between equals
    EXPECT_EQ(of({1.02, 1.0, 1.0}), 1);
    EXPECT_EQ(of({kNaN, 0, -1, INFINITY, 5}), 4);
    EXPECT_EQ(of({kNaN, INFINITY}), -1);
    EXPECT_EQ(of({}), -1);
}

TEST(TimeCandidates, LeavesOutWhatIsRefusedOrHopeless) {
    const std::vector<GemmAlgorithm> candidates{numbered(0), numbered(1), numbered(2), numbered(3)};
    std::vector<int> calls(candidates.size());
    const std::vector<TimedAlgorithm> timed =
        time_candidates(candidates, [&](size_t i, int count) -> std::optional<double> {
            calls[i] += count;
            if (i == 0) return {};
            constexpr double kSeconds[] = {0, 1e-3, 3e-3, 5e-4};
            return kSeconds[i] * (calls[i] > 3 ? 1 : 1.5);  // the first calls are slow
        });
    ASSERT_EQ(timed.size(), 2u);
    EXPECT_EQ(timed[0].algorithm, numbered(1));
    EXPECT_DOUBLE_EQ(timed[0].seconds, 1e-3);
    EXPECT_EQ(timed[1].algorithm, numbered(3));
    EXPECT_EQ(calls[0], 1);
    EXPECT_EQ(calls[2], 2);  // warmed up, one look, twice as slow as the best
    EXPECT_EQ(calls[3], 2 + 2 * 3);
}

TEST_F(GemmChoicesFile, IsMeasuredOnceAndReadFromThenOn) {
    {
        GemmChoices choices = open();
        EXPECT_EQ(choose(choices, 7), numbered(7));
        EXPECT_EQ(choose(choices, 8), numbered(7));
        EXPECT_EQ(choose(choices, 9, "another"), numbered(9));
        EXPECT_EQ(choices.searches(), 2);
    }
    const std::string before = content();
    GemmChoices choices = open();
    EXPECT_EQ(choose(choices, 1), numbered(7));
    EXPECT_EQ(choose(choices, 1, "another"), numbered(9));
    EXPECT_EQ(choices.choose(kProduct, anything, nullptr), numbered(7));
    EXPECT_EQ(choices.choose("a third", anything, nullptr), std::nullopt);
    EXPECT_EQ(choices.searches(), 0);
    EXPECT_EQ(content(), before);
    EXPECT_TRUE(warnings_.empty());
}

TEST_F(GemmChoicesFile, LinesOfOtherMachinesAreKeptAndNotUsed) {
    GemmChoices other = open("Other card"), here = open();
    EXPECT_EQ(choose(other, 1), numbered(1));
    EXPECT_EQ(choose(here, 2), numbered(2));
    GemmChoices again = open("Other card");
    EXPECT_EQ(choose(again, 3), numbered(1));
    EXPECT_EQ(again.searches(), 0);
    EXPECT_TRUE(warnings_.empty());
}

TEST_F(GemmChoicesFile, WhatTheLibraryRefusesIsMeasuredAgain) {
    {
        GemmChoices choices = open();
        choose(choices, 1);
    }
    GemmChoices choices = open();
    const auto not_the_first = [](const GemmAlgorithm& a) { return a != numbered(1); };
    const auto second = [] { return std::vector<TimedAlgorithm>{{numbered(2), 1e-4}}; };
    EXPECT_EQ(choices.choose(kProduct, not_the_first, nullptr), std::nullopt);
    EXPECT_EQ(choices.choose(kProduct, not_the_first, second), numbered(2));
    expect_warning("refuses");
    GemmChoices again = open();
    EXPECT_EQ(choose(again, 3), numbered(2));
}

TEST_F(GemmChoicesFile, WithoutATimeNothingIsChosenOrWritten) {
    GemmChoices choices = open();
    EXPECT_EQ(choices.choose(kProduct, anything, [] { return std::vector<TimedAlgorithm>{}; }), std::nullopt);
    const auto no_memory = []() -> std::vector<TimedAlgorithm> { fail_input("12 MiB wanted, 3 are free"); };
    EXPECT_EQ(choices.choose(kProduct, anything, no_memory), std::nullopt);
    ASSERT_EQ(warnings_.size(), 1u);
    EXPECT_NE(warnings_[0].find("12 MiB wanted"), std::string::npos);
    const auto broken = []() -> std::vector<TimedAlgorithm> { throw Error(ExitCode::kInternal, "illegal address"); };
    EXPECT_THROW(choices.choose(kProduct, anything, broken), Error);
    EXPECT_EQ(content(), "");
    EXPECT_EQ(choose(choices, 4), numbered(4));  // the lock was given back
}

TEST_F(GemmChoicesFile, AnotherVersionIsReplaced) {
    put("plimsoll gemm algorithms 0\nsome older line\n");
    GemmChoices choices = open();
    expect_warning("version '0', wanted 1");
    EXPECT_EQ(choose(choices, 5), numbered(5));
    EXPECT_EQ(warnings_.size(), 1u);
    EXPECT_EQ(content().find("older"), std::string::npos);
}

TEST_F(GemmChoicesFile, AFileThatIsSomethingElseIsLeftAlone) {
    const std::string text = "[model]\nlayers = 12\n";
    put(text);
    GemmChoices choices = open();
    expect_warning("begins with '[model]'");
    EXPECT_EQ(choose(choices, 5), std::nullopt);
    EXPECT_EQ(choices.searches(), 0);
    EXPECT_EQ(content(), text);
}

TEST_F(GemmChoicesFile, AFolderOrNoFolderIsToldOf) {
    GemmChoices is_a_folder(folder_, kMachine, [this](const std::string& m) { warnings_.push_back(m); });
    expect_warning("or a folder");
    EXPECT_EQ(choose(is_a_folder, 1), std::nullopt);
    warnings_.clear();
    GemmChoices nowhere(folder_ / "missing" / "file", kMachine,
                        [this](const std::string& m) { warnings_.push_back(m); });
    EXPECT_TRUE(warnings_.empty());
    EXPECT_EQ(choose(nowhere, 1), std::nullopt);
    EXPECT_EQ(nowhere.searches(), 0);  // no clock decides where nothing can be kept
    expect_warning("No such file");
}

// Whatever happens to the bytes: no exception, no other algorithm than one that was measured for this product, and the
// next choice writes a file that is whole again.
TEST_F(GemmChoicesFile, DamageIsNoticed) {
    {
        GemmChoices choices = open();
        for (uint64_t i = 0; i < 4; ++i) choose(choices, 10 + i, fmt::format("product {}", i));
        GemmChoices other = open("Other card");
        choose(other, 20, "product 0");
    }
    const std::string whole = content();
    const RandomStream random(1, "damage");
    uint64_t draw = 0;
    const auto below = [&](size_t n) { return static_cast<size_t>(random.below(draw++, n)); };
    const auto damaged = [&](int kind) {
        std::string text = whole;
        const size_t at = below(whole.size());
        switch (kind) {
            case 0:
                text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
                break;
            case 1:
                text.resize(at);
                break;
            case 2:
                text.erase(at, 1 + below(40));
                break;
            case 3:
                text.insert(at, std::string(1 + below(40), static_cast<char>(below(256))));
                break;
            default:  // a piece of itself, elsewhere
                text.insert(at, whole.substr(below(whole.size()), 1 + below(200)));
        }
        return text;
    };
    int searches = 0, told = 0;
    constexpr int kRounds = 1500;
    for (int round = 0; round < kRounds; ++round) {
        const std::string text = damaged(round % 5);
        put(text);
        warnings_.clear();
        GemmChoices choices = open();
        const bool left_alone = !text.empty() && !text.starts_with("plimsoll gemm algorithms ");
        for (uint64_t i = 0; i < 4; ++i) {
            const auto algorithm = choose(choices, 10 + i, fmt::format("product {}", i));
            if (left_alone)
                EXPECT_EQ(algorithm, std::nullopt);
            else
                EXPECT_EQ(algorithm, numbered(10 + i)) << "round " << round;
        }
        EXPECT_LE(warnings_.size(), 2u);
        if (left_alone) {
            EXPECT_EQ(content(), text);
            continue;
        }
        searches += choices.searches(), told += !warnings_.empty();
        if (choices.searches() == 0) continue;  // the damage was outside of what this machine reads
        warnings_.clear();
        GemmChoices again = open();
        for (uint64_t i = 0; i < 4; ++i) EXPECT_EQ(choose(again, 99, fmt::format("product {}", i)), numbered(10 + i));
        EXPECT_EQ(again.searches(), 0);
        EXPECT_TRUE(warnings_.empty());
    }
    EXPECT_GT(searches, kRounds / 4);  // the damage did reach what is read
    EXPECT_GT(told, kRounds / 2);
}

// Ranks that share the file: each measures other times, all compute with the same algorithms.
TEST_F(GemmChoicesFile, RanksThatShareTheFileChooseTheSame) {
    constexpr size_t kRanks = 4;
    constexpr int kProducts = 12;
    std::vector<std::vector<GemmAlgorithm>> chosen(kRanks);
    std::atomic<int> searches = 0, warnings = 0;
    std::vector<std::thread> ranks;
    for (size_t r = 0; r < kRanks; ++r)
        ranks.emplace_back([&, r] {
            GemmChoices choices(path_, kMachine, [&](const std::string&) { ++warnings; });
            for (int p = 0; p < kProducts; ++p) {
                const auto algorithm =
                    choose(choices, 100 * r + static_cast<uint64_t>(p), fmt::format("product {}", p));
                chosen[r].push_back(algorithm.value_or(GemmAlgorithm{}));
            }
            searches += choices.searches();
        });
    for (std::thread& rank : ranks) rank.join();
    for (size_t r = 1; r < kRanks; ++r) EXPECT_EQ(chosen[r], chosen[0]) << "rank " << r;
    EXPECT_EQ(searches, kProducts);
    EXPECT_EQ(warnings, 0);
    EXPECT_FALSE(fs::exists(path_ + ".temporary"));
}

}  // namespace
}  // namespace plimsoll
