// What a run plans is what it takes. Emulated only: the device counts its allocations.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "simt/host_runtime.h"
#include "simt/memory.h"
#include "support/small_run.h"
#include "train/plan.h"

namespace plimsoll {
namespace {

TEST(CudaMemoryPlan, PlannedIsAllocatedBeforeStepZeroAndNothingAfter) {
    const TemporaryFolder dir;
    for (const std::string recompute : {"none", "block"}) {
        const RunConfig config = small_run(dir, recompute, "cuda");
        const auto before = static_cast<int64_t>(simt::device_memory_in_use());
        Trainer trainer(config, {});
        const auto taken = static_cast<int64_t>(simt::device_memory_in_use()) - before;
        const NetworkConfig& network = trainer.model().config();
        EXPECT_EQ(plan_memory(config, network, trainer.model().precision(), {}, on_gpu()).bytes, taken);
        const int graphs = simt::host_state().graph_launches;
        for (int step = 0; step < 3; ++step) trainer.train_step();
        // Both micro batches and the update, from the second step on.
        EXPECT_EQ(simt::host_state().graph_launches - graphs, 3 * 2);
        EXPECT_EQ(static_cast<int64_t>(simt::device_memory_in_use()) - before, taken);
    }
}

// A driver that refuses a graph costs speed, and a line in the log.
TEST(CudaGraphs, WhatCannotBeRecordedIsSubmittedOpByOp) {
    const TemporaryFolder dir;
    const auto run = [&](const std::string& name) {
        RunConfig config = small_run(dir, name, "cuda");
        config.train.max_steps = 4;
        Trainer trainer(config, {});
        trainer.train();
        std::ifstream log(config.run.dir + "/log.txt");
        const HostCopy parameters(trainer.model().parameters(), on_gpu());
        const auto span = parameters.tensor().span<float>();
        return std::pair(std::vector<float>(span.begin(), span.end()), (std::ostringstream() << log.rdbuf()).str());
    };
    const auto [expected, quiet] = run("graphs");
    EXPECT_EQ(quiet.find("CUDA graph"), std::string::npos) << quiet;
    struct Refusal {
        const char* call;
        int part;  // of the step: its first micro batch, its other one, its update
    };
    for (const auto& [call, part] :
         {Refusal{"cudaStreamBeginCapture", 0}, {"cudaGraphInstantiate", 1}, {"cudaStreamBeginCapture", 2}}) {
        const int launches = simt::host_state().graph_launches;
        simt::fail_call(call, cudaErrorStreamCaptureUnsupported, part);
        const auto [parameters, log] = run(fmt::format("refused{}", part));
        EXPECT_TRUE(same_bits(parameters, expected)) << part;
        EXPECT_EQ(simt::host_state().graph_launches - launches, 2 * 3) << part;  // of the two other parts
        EXPECT_NE(log.find("op by op"), std::string::npos) << log;
        EXPECT_EQ(log.find("op by op"), log.rfind("op by op")) << "told once: " << log;
        EXPECT_NE(log.find(call), std::string::npos) << log;
    }
    for (const std::string& report : device_reports()) ADD_FAILURE() << report;
}

TEST(CudaMemoryPlan, ARunThatDoesNotFitSaysSoBeforeItStarts) {
    const TemporaryFolder dir;
    const size_t all = simt::device_memory_bytes();
    simt::device_memory_bytes() = simt::device_memory_in_use() + (size_t{66} << 20);
    RunConfig config = small_run(dir, "large", "cuda");
    config.train.micro_batch = 512, config.train.batch_tokens = 0;
    expect_error(ExitCode::kBadInput, {"the largest train.micro_batch that fits is"}, [&] { Trainer(config, {}); });
    simt::device_memory_bytes() = all;
}

}  // namespace
}  // namespace plimsoll
