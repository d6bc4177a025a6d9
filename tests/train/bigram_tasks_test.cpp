// Runs on each task of Bigram-Backcopy: floors, risks and probes.
#include <gtest/gtest.h>

#include <cmath>

#include "train/trainer.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

RunConfig config(const TemporaryFolder& folder, const std::string& task) {
    RunConfig c;
    c.run.dir = folder / task, c.run.device = "cpu", c.run.precision = "fp32", c.run.threads = 1;
    c.model.layers = 1, c.model.channels = 16, c.model.heads = 1, c.model.ffn = 16, c.model.context = 32;
    c.model.qk_norm = false;
    c.data.task = task, c.data.delimiter = 0.1, c.data.val_samples = 32;
    c.train.micro_batch = 4, c.train.max_steps = 2, c.train.log_every = 100;
    c.optimizer.lr = 0;  // the model stays what it was: uniform, nearly
    c.probes.samples = 8;
    return c;
}

TEST(BigramTasks, RunsReportTheirFloorsAndRisks) {
    const TemporaryFolder folder;
    for (const std::string task : {"bb", "backward", "markov", "delimiter"}) {
        SCOPED_TRACE(task);
        const RunConfig c = config(folder, task);
        EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
        const nlohmann::json info = nlohmann::json::parse(read_file(c.run.dir + "/run.json", "run")),
                             eval = read_lines(c.run.dir + "/evals.jsonl").back();
        const BigramBackcopy language(tiny_shakespeare_bigrams(), {.T = 32, .task = task, .delimiter = 0.1});
        const auto floors = language.floors(32);
        EXPECT_EQ(info["oracle"]["bigram_risk"], floors.bigram);
        // A model that knows nothing gives each of 67 ids about 1/67: a risk is the cross-entropy with the oracle.
        EXPECT_NEAR(eval["bigram_risk"].get<double>(), std::log(67), 0.3);
        EXPECT_EQ(task == "markov", eval["copy_risk"].is_null());
        EXPECT_EQ(task == "markov", info["oracle"]["copy_risk"].is_null());
        if (task != "markov") {
            EXPECT_EQ(info["oracle"]["copy_risk"], floors.copy);
            EXPECT_NEAR(eval["copy_risk"].get<double>(), std::log(67), 0.3);
        }
        const nlohmann::json heads = read_lines(c.run.dir + "/probes.jsonl").back()["per_head"];
        EXPECT_TRUE(heads["first_mass_effective"][0][0].is_number());
        EXPECT_TRUE(heads["sink_logit_delta"][0][0].is_number());
    }
}

// The mean risks, weighted by their positions, are the mean loss but for the sample: the oracle is that of the data.
TEST(BigramTasks, RisksAddUpToTheLoss) {
    const TemporaryFolder folder;
    for (const std::string task : {"bb", "backward", "markov", "delimiter"}) {
        RunConfig c = config(folder, task);
        c.data.val_samples = 256, c.model.init_std = 0.3;  // opinions about tokens
        EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
        const nlohmann::json eval = read_lines(c.run.dir + "/evals.jsonl").back();
        const auto floors =
            BigramBackcopy(tiny_shakespeare_bigrams(), {.T = 32, .task = task, .delimiter = 0.1}).floors(32);
        const double copy = eval["copy_risk"].is_null() ? 0 : eval["copy_risk"].get<double>();
        const double mean =
            (1 - floors.trigger_fraction) * eval["bigram_risk"].get<double>() + floors.trigger_fraction * copy;
        // 8,192 positions whose losses scatter by about one nat.
        EXPECT_NEAR(eval["loss"].get<double>(), mean, 0.06) << task;
    }
}

}  // namespace
}  // namespace plimsoll
