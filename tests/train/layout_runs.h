// Runs of tiny networks in layouts of ranks, for tests: threads as ranks, and one process that stands for all of them.
#pragma once

#include <gtest/gtest.h>

#include <functional>

#include "dist/as_ranks.h"
#include "train/inspect_checkpoint.h"
#include "train/machine.h"
#include "train/trainer.h"
#include "train_test_support.h"

namespace plimsoll {

// How ranks share a run.
struct Layout {
    int data_ranks = 1, stages = 1, chunks = 1;
    std::string schedule = "1f1b";
    bool zero1 = true, tied = false;

    int ranks() const { return data_ranks * stages; }
    int virtual_stages() const { return stages * chunks; }
    // Of a data rank: what interleaved asks for; else a number that no count of stages divides.
    int64_t micro_batches() const { return chunks > 1 ? 2 * stages : 5; }
    std::string name() const {
        return fmt::format("{} x {} x {} {}{}{}", data_ranks, stages, chunks, schedule, zero1 ? " zero1" : "",
                           tied ? " tied" : "");
    }
    // The layout in one process that has its bits.
    Layout alone() const {
        Layout one{.data_ranks = data_ranks, .chunks = virtual_stages(), .zero1 = zero1, .tied = tied};
        if (one.chunks > 1) one.schedule = "interleaved";
        return one;
    }
};

// A message that never comes fails the test, and does not hold it up.
constexpr std::chrono::seconds kTimeout{20};

// What a run leaves behind.
struct Outcome {
    std::vector<double> losses, norms;
    uint64_t tensors = 0;  // hash of parameters and optimizer state
    bool operator==(const Outcome&) const = default;
};

class LayoutTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    int runs_ = 0;

    std::function<void(RunConfig&)> change_ = [](RunConfig&) {};  // of every run's configuration

    // A run of a network of 5 layers, or as many as there are stages, and of rows of 16 tokens.
    RunConfig config(const std::string& variant, const std::string& precision, const Layout& layout,
                     int64_t micro_batches, int64_t steps) {
        std::vector<std::string> heads{"model.heads=2"};
        if (variant == "differential_v2") heads.emplace_back("model.kv_heads=1");  // its two maps share a key head
        RunConfig c = load_config(
            {.file = PLIMSOLL_SOURCE_DIR "/configs/quickstart.toml", .variant = variant, .overrides = heads});
        c.run.dir = folder_ / fmt::format("{}", runs_++);
        c.run.threads = 1, c.run.precision = precision;
        c.model.layers = std::max(5, layout.virtual_stages()), c.model.channels = 16, c.model.context = 16;
        c.model.ffn = 24, c.model.tied = layout.tied;
        c.train.micro_batch = 1, c.train.batch_tokens = 16 * micro_batches, c.train.max_steps = steps;
        c.train.eval_every = 0, c.data.val_samples = 2, c.probes.enabled = false;
        // With it every bit of the norm reaches the parameters.
        c.train.clip = layout.tied ? 0.05 : 0.0;
        c.parallel.stages = layout.stages, c.parallel.chunks = layout.chunks, c.parallel.schedule = layout.schedule;
        c.parallel.zero1 = layout.zero1;
        change_(c);
        return c;
    }
    static Outcome outcome(const RunConfig& c) {
        Outcome result;
        for (const nlohmann::json& line : read_lines(c.run.dir + "/metrics.jsonl")) {
            result.losses.push_back(line["loss"]);
            result.norms.push_back(line["norm"]);
        }
        EXPECT_EQ(static_cast<int64_t>(result.losses.size()), c.train.max_steps);
        result.tensors = tensors_hash(read_manifest(CheckpointStore(c.run.dir).folder(c.train.max_steps)));
        return result;
    }
    // One process, that stands for all ranks of the layout.
    Outcome alone(const std::string& variant, const std::string& precision, const Layout& layout, int64_t steps) {
        Layout one = layout.alone();
        RunConfig c = config(variant, precision, one, layout.data_ranks * layout.micro_batches(), steps);
        c.parallel.virtual_ranks = layout.data_ranks;
        EXPECT_EQ(Trainer(c, {}).train(), ExitCode::kOk);
        return outcome(c);
    }
    // A rank each: threads.
    Outcome as_threads(const std::string& variant, const std::string& precision, const Layout& layout, int64_t steps) {
        const RunConfig c = config(variant, precision, layout, layout.data_ranks * layout.micro_batches(), steps);
        as_ranks(layout.ranks(), [&](Communicator& world) {
            world.set_timeout(kTimeout);
            EXPECT_EQ(Trainer(c, {}, world.split(0, world.rank(), "run")).train(), ExitCode::kOk);
        });
        return outcome(c);
    }
};

}  // namespace plimsoll
