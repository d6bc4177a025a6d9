// How runs start again and end: the time limit, the limit on starts without progress, and what is recorded of both.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>

#include "dist/as_ranks.h"
#include "support/quick_run.h"
#include "train/json_lines.h"
#include "train/run_process.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class RunEndTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    RunConfig config(const std::string& name, int64_t steps = 6) {
        RunConfig c = quick_run(folder_ / name, steps);
        c.run.threads = 1, c.data.val_samples = 8, c.probes.samples = 2;
        c.train.micro_batch = 2, c.train.batch_tokens = 64, c.train.eval_every = 2;
        return c;
    }
    static ExitCode train(const RunConfig& c, Communicator world = Communicator(single_transport())) {
        TrainOptions options;
        options.resume = Resume::kAuto;
        return train_run(c, options, std::move(world));
    }
    std::vector<json> starts(const std::string& name) { return read_lines(folder_ / (name + "/restarts.jsonl")); }
    std::vector<json> ledger() { return read_lines(folder_ / "ledger.jsonl"); }
    std::string log(const std::string& name) { return read_file(folder_ / (name + "/log.txt"), "log"); }
};

TEST_F(RunEndTest, OneLineForEachProcessThatDidSomething) {
    EXPECT_EQ(train(config("run", 3)), ExitCode::kOk);
    EXPECT_EQ(train(config("run", 3)), ExitCode::kOk);  // done already: no line
    RunConfig other = config("other", 3);
    other.data.source = "shards", other.data.shards = folder_ / "*.bin";
    EXPECT_THROW(train(other), Error);  // before it took a directory: no line
    EXPECT_EQ(train(config("run", 6)), ExitCode::kOk);
    const std::vector<json> lines = ledger();
    ASSERT_EQ(lines.size(), 2u);
    EXPECT_EQ(lines[0]["steps"], 3);
    EXPECT_EQ(lines[1]["steps"], 6);
    EXPECT_EQ(lines[1]["loss_final"], read_lines(folder_ / "run/metrics.jsonl").back()["loss"]);
    EXPECT_EQ(lines[1]["loss_val"], read_lines(folder_ / "run/evals.jsonl").back()["loss"]);
    EXPECT_TRUE(lines[1]["probes"].contains("sink_rate"));
    EXPECT_TRUE(lines[1]["probes"].contains("residual_peak_ratio"));
    EXPECT_GT(lines[1]["tokens_per_second"], 0);
    EXPECT_NE(log("run").find("resume: step 3 of 6, start 3 of this run, 1 since the last progress"),
              std::string::npos);
    EXPECT_EQ(starts("run").back()["exit_code"], 0);
}

TEST_F(RunEndTest, AnErrorIsRecordedToo) {
    RunConfig c = config("run");
    c.optimizer.lr = 1e30, c.health.max_skips = 0, c.train.clip = 0;
    EXPECT_THROW(train(c), Error);
    ASSERT_EQ(ledger().size(), 1u);
    EXPECT_EQ(ledger()[0]["exit_code"], 70);
    EXPECT_EQ(ledger()[0]["status"], "failed");
    EXPECT_EQ(starts("run").back()["exit_code"], 70);
}

TEST_F(RunEndTest, ALedgerThatCannotBeWrittenFailsNoRun) {
    fs::create_directory(folder_ / "ledger.jsonl");
    EXPECT_EQ(train(config("run")), ExitCode::kOk);
}

TEST_F(RunEndTest, TheTimeLimitSavesAndEnds) {
    RunConfig c = config("run");
    c.train.max_seconds = 0.01;  // over before it begins
    EXPECT_EQ(train(c), ExitCode::kSavedOnSignal);
    EXPECT_TRUE(fs::exists(folder_ / "run/checkpoints/step_00000000/MANIFEST"));
    EXPECT_NE(log("run").find("stopped after step 0"), std::string::npos);
    EXPECT_NE(log("run").find("time limit (train.max_seconds = 0.01)"), std::string::npos);
    EXPECT_EQ(json::parse(read_file(folder_ / "run/run.json", "run file"))["status"], "stopped");
    EXPECT_EQ(ledger().back()["status"], "stopped");
    c.train.max_seconds = 0;
    EXPECT_EQ(train(c), ExitCode::kOk);  // the key may change
    EXPECT_EQ(train(config("whole")), ExitCode::kOk);
    EXPECT_EQ(ledger().back()["loss_final"], ledger()[1]["loss_final"]);
}

// Only one rank's clock says so: all end after the same step, and go on together.
TEST_F(RunEndTest, RanksAgreeToStop) {
    for (const bool limited : {true, false})
        as_ranks(2, [&](Communicator& world) {
            RunConfig c = config("run");
            if (limited && world.rank() == 1) c.train.max_seconds = 0.01;
            EXPECT_EQ(train(c, world.split(0, world.rank(), "run")),
                      limited ? ExitCode::kSavedOnSignal : ExitCode::kOk);
        });
    EXPECT_NE(log("run").find("stopped after step 1 "), std::string::npos);
    EXPECT_NE(log("run").find("(of another rank)"), std::string::npos);
    EXPECT_NE(log("run").find("resume: step 1 of 6"), std::string::npos);
    ASSERT_EQ(ledger().size(), 2u);
    EXPECT_EQ(ledger()[1]["ranks"], 2);
}

TEST_F(RunEndTest, StartsWithoutProgressAreRefused) {
    RunConfig c = config("run");
    c.train.max_seconds = 0.01, c.train.max_restarts = 2;
    for (int i = 0; i < 2; ++i) EXPECT_EQ(train(c), ExitCode::kSavedOnSignal);
    for (int i = 0; i < 2; ++i)
        expect_error(ExitCode::kInternal, {"2 starts in a row", "past step 0", "status 85, status 85"},
                     [&] { train(c); });
    EXPECT_EQ(ledger().size(), 2u);
    c.train.max_seconds = 0, c.train.max_restarts = 3;
    EXPECT_EQ(train(c), ExitCode::kOk);
    EXPECT_NE(log("run").find("start 3 of this run, 3 since the last progress"), std::string::npos);
}

// Under MPI rank 0's error ends the job; threads only notice that it is gone.
TEST_F(RunEndTest, RankZeroRefusesForAll) {
    RunConfig c = config("run");
    c.train.max_restarts = 1, c.train.max_seconds = 0.01;
    EXPECT_EQ(train(c), ExitCode::kSavedOnSignal);
    as_ranks(2, [&](Communicator& world) {
        Communicator of_run = world.split(0, world.rank(), "run");
        of_run.set_timeout(std::chrono::seconds(1));
        const ExitCode code = world.rank() == 0 ? ExitCode::kInternal : ExitCode::kTransient;
        expect_error(code, {world.rank() == 0 ? "1 starts in a row" : "nothing from ranks 0"},
                     [&] { train(c, std::move(of_run)); });
    });
    EXPECT_EQ(starts("run").size(), 2u);
    EXPECT_EQ(ledger().size(), 1u);
}

TEST_F(RunEndTest, AFreshStartForgetsTheOldOnes) {
    RunConfig c = config("run");
    c.train.max_seconds = 0.01, c.train.max_restarts = 1;
    EXPECT_EQ(train(c), ExitCode::kSavedOnSignal);
    TrainOptions fresh;
    fresh.resume = Resume::kFresh;
    EXPECT_EQ(train_run(c, fresh, Communicator(single_transport())), ExitCode::kSavedOnSignal);
    EXPECT_EQ(starts("run").size(), 2u);
}

}  // namespace
}  // namespace plimsoll
