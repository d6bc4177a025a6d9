// Whole runs on the device: against the CPU, with and without CUDA graphs, and what a user reads when they cannot go
// on.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "dist/as_ranks.h"
#include "support/small_run.h"
#include "train/train_test_support.h"

namespace plimsoll {
namespace {

// The same ops on the same values: bit for bit the same run, however they were submitted and whatever was kept.
TEST(CudaTrainer, GraphsAndRecomputeChangeNoBit) {
    const TemporaryFolder dir;
    const Trained graphs = train_some(small_run(dir, "graphs", "cuda"));
    for (const std::string level : {"none", "light", "block"}) {
        RunConfig config = small_run(dir, level, "cuda");
        config.run.graphs = false, config.train.recompute = level;
        const Trained other = train_some(config);
        EXPECT_EQ(graphs.losses, other.losses) << level;
        EXPECT_EQ(graphs.norms, other.norms) << level;
        EXPECT_TRUE(same_bits(graphs.parameters, other.parameters)) << level;
    }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

// bf16 rounds differently in a different order; five steps keep the loss to half a percent.
TEST(CudaTrainer, FollowsTheCpu) {
    const TemporaryFolder dir;
    const Trained cpu = train_some(small_run(dir, "cpu", "cpu")), gpu = train_some(small_run(dir, "gpu", "cuda"));
    for (size_t i = 0; i < cpu.losses.size(); ++i) {
        EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 5e-3 * cpu.losses[i]) << i;
        EXPECT_NEAR(gpu.norms[i], cpu.norms[i], 5e-2 * cpu.norms[i]) << i;
    }
    EXPECT_LT(gpu.losses.back(), gpu.losses.front());
}

// Their products in fp32 and their scratch memory: nothing asks for more than was planned.
TEST(CudaTrainer, OtherOptimizersFollowTheCpu) {
    const TemporaryFolder dir;
    for (const std::string kind : {"muon", "orthoadam"}) {
        const auto run = [&](const std::string& device) {
            RunConfig config = small_run(dir, kind + device, device);
            config.optimizer.kind = kind, config.train.max_steps = 3;
            return train_some(config);
        };
        const Trained cpu = run("cpu"), gpu = run("cuda");
        for (size_t i = 0; i < cpu.losses.size(); ++i) EXPECT_NEAR(gpu.losses[i], cpu.losses[i], 5e-3 * cpu.losses[i]);
        EXPECT_LT(gpu.losses.back(), gpu.losses.front()) << kind;
    }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

// From the first line to the last checkpoint: evaluation, probes, a trace, and going on where the run stopped.
TEST(CudaTrainer, AWholeRunAndItsResume) {
    const TemporaryFolder dir;
    RunConfig config = small_run(dir, "whole", "cuda");
    config.train.max_steps = 3;
    Trainer(config, {.profile = {2, 2}}).train();
    for (const char* file : {"metrics.jsonl", "evals.jsonl", "probes.jsonl", "attention_maps.json", "profile.json"})
        EXPECT_TRUE(std::filesystem::exists(config.run.dir + "/" + file)) << file;
    // Before the first step both backends probe the same parameters.
    RunConfig on_cpu = small_run(dir, "whole_cpu", "cpu");
    on_cpu.train.max_steps = 1;
    Trainer(on_cpu, {}).train();
    const nlohmann::json cpu = read_lines(on_cpu.run.dir + "/probes.jsonl").at(0),
                         gpu = read_lines(config.run.dir + "/probes.jsonl").at(0);
    for (const char* metric : {"first_mass_effective", "entropy", "drain_ratio", "gate_mean"})
        for (size_t layer = 0; layer < 2; ++layer)
            for (size_t head = 0; head < 2; ++head) {
                const auto of = [&](const nlohmann::json& probe) {
                    return probe.at("per_head").at(metric).at(layer).at(head).get<double>();
                };
                EXPECT_NEAR(of(gpu), of(cpu), 1e-2 * std::abs(of(cpu))) << metric;  // bf16 on both sides
            }
    config.train.max_steps = 5;
    Trainer more(config, {.resume = Resume::kAuto});
    EXPECT_EQ(more.step(), 3);
    const StepResult fourth = more.train_step();
    EXPECT_EQ(fourth.loss, train_some(small_run(dir, "straight", "cuda")).losses[3]);
}

// Two ranks that share the device, with graphs and without: the bits of one process that computes as two.
TEST(CudaTrainer, RanksHaveTheBitsOfVirtualRanks) {
    const TemporaryFolder dir;
    RunConfig config = small_run(dir, "virtual", "cuda");
    config.model.layers = 1, config.model.context = 16, config.probes.enabled = false;
    config.train.max_steps = 3, config.train.batch_tokens = 128, config.parallel.virtual_ranks = 2;
    const Trained expected = train_some(config);
    config.parallel.virtual_ranks = 1, config.parallel.share_devices = true;
    for (const bool graphs : {true, false}) {
        config.run.graphs = graphs, config.run.dir = dir / (graphs ? "graphs" : "ops");
        as_ranks(2, [&](Communicator& world) {
            const Trained own = train_some(config, world.split(0, world.rank(), "run"));
            EXPECT_EQ(own.losses, expected.losses);
            EXPECT_EQ(own.norms, expected.norms);
            EXPECT_TRUE(same_bits(own.parameters, expected.parameters));
        });
    }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

// The file of algorithms lies beside the run; one that cannot be used is told of, and nothing else changes.
TEST(CudaTrainer, SaysWhatIsWrongWithTheFileOfAlgorithms) {
    const TemporaryFolder dir;
    RunConfig config = small_run(dir, "run", "cuda");
    config.train.max_steps = 1;
    EXPECT_EQ(config.gemm_cache(), dir / "gemm_algorithms.txt");
    const Trained without = train_some(config);
    std::ofstream(config.gemm_cache()) << "plimsoll gemm algorithms 0\n";
    config.run.dir = dir / "again";
    const Trained with = train_some(config);
    EXPECT_EQ(with.losses, without.losses);
    std::ifstream file(config.run.dir + "/log.txt");
    EXPECT_NE((std::ostringstream() << file.rdbuf()).str().find("is of version '0', wanted 1"), std::string::npos);
    config.run.gemm_cache = "";
    EXPECT_EQ(config.gemm_cache(), "");
}

TEST(CudaTrainer, SaysWhyItCannotGoOn) {
    const TemporaryFolder dir;
    RunConfig wild = small_run(dir, "wild", "cuda");
    wild.optimizer.lr = 1e30, wild.train.clip = 0;
    expect_error(ExitCode::kInternal, {"Lower optimizer.lr"}, [&] { train_some(wild); });
    RunConfig odd = small_run(dir, "odd", "cuda");
    odd.model.head_size = 48;
    expect_error(ExitCode::kBadInput, {"wanted 32, 64, 96, 128 or 256"}, [&] { train_some(odd); });
    RunConfig wide = small_run(dir, "wide", "cuda");
    wide.run.precision = "fp32";
    expect_error(ExitCode::kBadInput, {"run.precision"}, [&] { train_some(wide); });
}

}  // namespace
}  // namespace plimsoll
