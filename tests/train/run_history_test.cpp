#include "train/run_history.h"

#include <gtest/gtest.h>

#include "train/json_lines.h"
#include "train/run_lock.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

RecordedStart start(int64_t newest, std::optional<int> exit_code = {}, bool fenced = false) {
    return {.generation = {}, .newest = newest, .exit_code = exit_code, .fenced = fenced};
}

TEST(RunHistory, CountsStartsThatSavedNothingNewer) {
    EXPECT_EQ(starts_without_progress({}, 0), 0);
    EXPECT_EQ(starts_without_progress({start(0)}, 0), 1);
    EXPECT_EQ(starts_without_progress({start(0)}, 5), 0);
    EXPECT_EQ(starts_without_progress({start(0), start(0, 85), start(0, 70)}, 0), 3);
    EXPECT_EQ(starts_without_progress({start(0), start(0), start(5), start(5)}, 5), 2);
    EXPECT_EQ(starts_without_progress({start(5), start(5), start(5)}, 6), 0);
}

TEST(RunHistory, ADoneRunEndsTheCount) {
    EXPECT_EQ(starts_without_progress({start(5), start(5, 0)}, 5), 0);
    EXPECT_EQ(starts_without_progress({start(5), start(5, 0), start(5, 75)}, 5), 1);
}

TEST(RunHistory, AFencedStartNeitherCountsNorEndsTheCount) {
    EXPECT_EQ(starts_without_progress({start(5), start(5, 75, true), start(5, 75)}, 5), 2);
    EXPECT_EQ(starts_without_progress({start(5, 75, true)}, 5), 0);
}

// Somebody removed the newest checkpoints, to go on from an older one: the start before that did not get past its own.
TEST(RunHistory, GoingBackIsNoProgressButStartsOver) {
    EXPECT_EQ(starts_without_progress({start(10), start(20)}, 10), 1);
}

TEST(RunHistory, ReadsWhatItWrites) {
    TemporaryFolder folder;
    const RunLock lock(folder / ".");
    const std::string directory = folder / ".";
    for (int i = 0; i < 3; ++i) {
        RunHistory history;
        history.open({.directory = directory, .parent = {}, .newest = 7, .max_restarts = 3});
        EXPECT_EQ(history.describe(), fmt::format("start {} of this run, 1 since the last progress", i + 1));
        history.begin(i == 2 ? lock.generation() : fmt::format("generation{}", i));
        history.resumed(7);
        if (i > 0) history.end(ExitCode::kTransient);
        history.end(ExitCode::kOk);  // the first end stands
    }
    const std::vector<RecordedStart> starts = recorded_starts(read_json_lines(folder / "restarts.jsonl"));
    ASSERT_EQ(starts.size(), 3u);
    EXPECT_EQ(starts[0].newest, 7);
    EXPECT_EQ(starts[0].exit_code, 0);
    EXPECT_EQ(starts[1].exit_code, 75);
    EXPECT_TRUE(starts[1].fenced);  // the lock is another's
    EXPECT_EQ(starts[2].exit_code, 75);
    EXPECT_FALSE(starts[2].fenced);
}

TEST(RunHistory, RefusesOneStartTooManyAndSaysHowToGoOn) {
    TemporaryFolder folder;
    const std::string directory = folder / ".";
    const auto try_start = [&](int64_t newest, int64_t limit) {
        RunHistory history;
        history.open({.directory = directory, .parent = {}, .newest = newest, .max_restarts = limit});
        history.begin(fmt::format("{}", rand()));
    };
    for (int i = 0; i < 3; ++i) try_start(4, 3);
    const auto refused = [&] {
        expect_error(ExitCode::kInternal,
                     {"3 starts in a row", "past step 4", "killed, killed, killed", "train.max_restarts is 3",
                      "log.txt", "--set train.max_restarts=6"},
                     [&] { try_start(4, 3); });
    };
    refused();
    refused();        // which was no start
    try_start(4, 4);  // raised
    try_start(4, 0);  // no limit
    try_start(5, 3);  // a newer checkpoint
    try_start(5, 3);
    EXPECT_EQ(recorded_starts(read_json_lines(folder / "restarts.jsonl")).size(), 7u);
}

TEST(RunHistory, SurvivesAnyLine) {
    TemporaryFolder folder;
    std::vector<json> lines;
    for (const char* text :
         {R"({"event":"start"})", R"({"event":"start","generation":7,"newest":"x"})", R"({"event":3})",
          R"({"event":"start","generation":"a","newest":-9})", R"({"event":"end","generation":"b","exit_code":0})",
          R"({"event":"end","generation":"a","exit_code":"x","status":1})", R"({})"})
        lines.push_back(json::parse(text));
    const std::vector<RecordedStart> starts = recorded_starts(lines);
    ASSERT_EQ(starts.size(), 3u);
    EXPECT_EQ(starts[2].newest, 0);
    EXPECT_EQ(starts[2].exit_code, 70);
    EXPECT_FALSE(starts[0].exit_code.has_value());
}

}  // namespace
}  // namespace plimsoll
