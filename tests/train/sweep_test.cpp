#include "train/sweep.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "dist/as_ranks.h"
#include "train/sweep_progress.h"
#include "train/sweep_runner.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

class SweepTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    std::string write(const std::string& text) {
        const std::string head = "[sweep]\nname = \"t\"\nbase = \"" PLIMSOLL_SOURCE_DIR "/configs/quickstart.toml\"\n" +
                                 fmt::format("dir = \"{}\"\n", folder_ / "runs");
        return write_bytes(folder_ / "sweep.toml", head + text);
    }
    Sweep load(const std::string& text) { return load_sweep(write(text), {}); }
    std::vector<std::string> names(const std::string& text) {
        std::vector<std::string> names;
        for (const SweepCell& cell : load(text).cells) names.push_back(cell.name);
        return names;
    }
    void expect_refused(const std::string& text, const std::string& part) {
        const std::string message = message_of(ExitCode::kBadInput, [&] { load(text); });
        EXPECT_NE(message.find(part), std::string::npos) << message;
    }
};

TEST_F(SweepTest, CellsAreAllCombinations) {
    EXPECT_EQ(names("variants = [\"softmax\", \"sigmoid\"]\nseeds = [1, 2]"),
              (std::vector<std::string>{"softmax-seed1", "softmax-seed2", "sigmoid-seed1", "sigmoid-seed2"}));
    const Sweep sweep = load(
        "axes = [\"model.layers=2 model.ffn=64 | model.layers=3\", \"optimizer.lr=1e-3|optimizer.lr=2e-3\"]\n"
        "set = [\"train.max_steps=7\"]");
    ASSERT_EQ(sweep.cells.size(), 4u);
    EXPECT_EQ(sweep.cells[0].name, "layers2-ffn64-lr1e-3");
    EXPECT_EQ(sweep.cells[3].name, "layers3-lr2e-3");
    EXPECT_EQ(sweep.cells[3].overrides,
              (std::vector<std::string>{"train.max_steps=7", "model.layers=3", "optimizer.lr=2e-3", "run.name=t"}));
    EXPECT_EQ(sweep.cells[0].steps, 7);
    EXPECT_EQ(names(""), std::vector<std::string>{"cell"});
}

TEST_F(SweepTest, VariantsHaveLearningRatesOfTheirOwn) {
    EXPECT_EQ(names("variants = [\"softmax\", \"sigmoid\", \"gated\"]\nrates = [\"sigmoid: 3e-3 1e-2\", \"*: 1e-3\"]"),
              (std::vector<std::string>{"softmax-lr1e-3", "sigmoid-lr3e-3", "sigmoid-lr1e-2", "gated-lr1e-3"}));
}

TEST_F(SweepTest, ExcludedCellsAreLeftOut) {
    EXPECT_EQ(names("variants = [\"softmax\", \"sigmoid\"]\nrates = [\"*: 1e-3 3e-3\"]\n"
                    "exclude = [\"variant=sigmoid optimizer.lr=3e-3\"]"),
              (std::vector<std::string>{"softmax-lr1e-3", "softmax-lr3e-3", "sigmoid-lr1e-3"}));
    expect_refused("variants = [\"softmax\"]\nexclude = [\"variant=softmax\"]", "leaves no cell");
}

TEST_F(SweepTest, BadSweepsAreRefusedBeforeAnythingStarts) {
    expect_refused("variant = [\"softmax\"]", "variants");             // the nearest key
    expect_refused("axes = [\"model.layers=2 | \"]", "sets nothing");  // an empty alternative
    expect_refused("axes = [\"\"]", "sets nothing");                   // an empty axis
    expect_refused("axes = [\"model.layers\"]", "section.key=value");
    expect_refused("axes = [\"model.layer=2\"]", "layers");                          // unknown in a cell
    expect_refused("axes = [\"model.layers=0 | model.layers=2\"]", "model.layers");  // no cell could run with it
    expect_refused("variants = [\"softmaxx\"]", "softmax");
    expect_refused("variants = [\"softmax\", \"softmax\"]", "two cells");  // one name
    expect_refused("seeds = [1, 2, 3]\nmax_cells = 2", "max_cells");
    expect_refused("variants = [\"softmax\"]\nrates = [\"sigmoid: 1e-3\"]", "sweep.variants");
    expect_refused("variants = [\"softmax\"]\nrates = [\"softmax:\"]", "no rate");
    expect_refused("[launch]\njobs = 0", "launch.jobs");
    EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
}

TEST_F(SweepTest, ShippedSweepsLoad) {
    for (const auto& entry : std::filesystem::directory_iterator(PLIMSOLL_SOURCE_DIR "/configs/sweeps")) {
        const Sweep sweep = load_sweep(entry.path().string(), {});
        EXPECT_GE(sweep.cells.size(), 2u) << entry.path();
    }
    const Sweep quick = load_sweep(PLIMSOLL_SOURCE_DIR "/configs/sweeps/quick.toml", {});
    EXPECT_EQ(quick.cells.size(), 24u);
}

// What a cell left in its directory says how far it is.
TEST_F(SweepTest, ProgressIsReadFromRuns) {
    const Sweep sweep = load("variants = [\"softmax\"]\nset = [\"train.max_steps=4\"]");
    const SweepCell& cell = sweep.cells.front();
    EXPECT_EQ(SweepJournal(sweep).progress_of(cell).state, CellState::kWaiting);
    std::filesystem::create_directories(cell.dir);
    write_bytes(cell.dir + "/metrics.jsonl",
                "{\"step\":1,\"loss\":2.5,\"seconds\":3}\n{\"step\":2,\"loss\":2.25,\"seconds\":4}\n{\"st");
    write_bytes(cell.dir + "/run.json", "{\"status\":\"running\"}");
    CellProgress progress = SweepJournal(sweep).progress_of(cell);
    EXPECT_EQ(progress.state, CellState::kInterrupted);
    EXPECT_EQ(progress.step, 2);
    EXPECT_EQ(progress.loss, 2.25);
    write_bytes(sweep.dir + "/sweep.jsonl", "{\"event\":\"end\",\"cell\":\"softmax\",\"status\":78}\n");
    EXPECT_EQ(SweepJournal(sweep).progress_of(cell).state, CellState::kFailed);
    write_bytes(sweep.dir + "/sweep.jsonl",
                "{\"event\":\"end\",\"cell\":\"softmax\",\"status\":78}\n{\"event\":\"end\",\"cell\":\"softmax\","
                "\"status\":85}\n");
    EXPECT_EQ(SweepJournal(sweep).progress_of(cell).state, CellState::kInterrupted);
    write_bytes(cell.dir + "/metrics.jsonl", "{\"step\":4,\"loss\":2.0,\"seconds\":9}\n");
    write_bytes(cell.dir + "/run.json", "{\"status\":\"done\"}");
    EXPECT_EQ(SweepJournal(sweep).progress_of(cell).state, CellState::kDone);
}

// A process that a "begin" names is looked for; this one is not the cell's.
TEST_F(SweepTest, AnotherProcessWithTheNumberOfACellIsNotTheCell) {
    const Sweep sweep = load("variants = [\"softmax\"]");
    std::filesystem::create_directories(sweep.dir);
    note_event(sweep, {{"event", "begin"}, {"cell", "softmax"}, {"pid", getpid()}});
    EXPECT_EQ(SweepJournal(sweep).progress_of(sweep.cells.front()).state, CellState::kWaiting);
}

// What a task of a job array is told, as long as the cells are those that were submitted.
TEST_F(SweepTest, ATaskLearnsItsCell) {
    const std::string text = "variants = [\"softmax\", \"sigmoid\"]\nseeds = [1, 2]\n[launch]\nthreads = 3";
    const Sweep sweep = load(text);
    testing::internal::CaptureStdout();
    print_cell(sweep, 3, sweep.cells_hash());
    std::istringstream lines(testing::internal::GetCapturedStdout());
    std::vector<std::string> words;
    for (std::string line; std::getline(lines, line);) words.push_back(line);
    ASSERT_GT(words.size(), 8u);
    EXPECT_EQ(words[0], sweep.dir + "/sigmoid-seed2.txt");
    EXPECT_EQ(words[2], "train");
    EXPECT_EQ(words.back(), "run.threads=3");
    EXPECT_NE(std::ranges::find(words, "run.seed=2"), words.end());
    EXPECT_NE(std::ranges::find(words, sweep.dir + "/sigmoid-seed2"), words.end());

    const Sweep longer = load("variants = [\"softmax\", \"sigmoid\"]\nseeds = [1, 2, 3]");
    EXPECT_THROW(print_cell(longer, 3, sweep.cells_hash()), Error);
    EXPECT_THROW(print_cell(sweep, 4, sweep.cells_hash()), Error);
    EXPECT_THROW(end_cell(longer, 0, sweep.cells_hash(), 0), Error);
}

// 16 processes note 50 events each: no line is torn.
TEST_F(SweepTest, EventsOfManyProcessesDoNotMix) {
    const Sweep sweep = load("variants = [\"softmax\"]");
    std::filesystem::create_directories(sweep.dir);
    std::vector<pid_t> children;
    for (int c = 0; c < 16; ++c) {
        const pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < 50; ++i)
                note_event(sweep, {{"event", "end"}, {"cell", std::string(200, 'x')}, {"status", c}});
            _exit(0);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) waitpid(pid, nullptr, 0);
    std::ifstream in(sweep.dir + "/sweep.jsonl");
    int count = 0;
    for (std::string line; std::getline(in, line); ++count) EXPECT_TRUE(nlohmann::json::accept(line)) << line;
    EXPECT_EQ(count, 16 * 50);
}

}  // namespace
}  // namespace plimsoll
