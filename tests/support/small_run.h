// A training run that is small enough for the emulated device, and what came out of it.
#pragma once

#include "data/data_test_support.h"
#include "support/cuda_test.h"
#include "train/trainer.h"

namespace plimsoll {

// A run of some steps of two micro batches, small enough for the emulated device.
inline RunConfig small_run(const TemporaryFolder& dir, const std::string& name, const std::string& device) {
    RunConfig c;
    c.run.dir = dir / name, c.run.device = device, c.run.threads = 2, c.run.precision = "bf16";
    c.run.measure_peak = false;
    c.model.layers = 2, c.model.channels = 64, c.model.heads = 2, c.model.ffn = 128, c.model.context = 32;
    c.attention.gate = {"headwise"};
    c.data.source = "bigram_backcopy", c.data.val_samples = 4;
    c.train.micro_batch = 2, c.train.batch_tokens = 128, c.train.max_steps = 5;
    c.optimizer.lr = 3e-3;
    c.probes.samples = 2;
    return c;
}

struct Trained {
    std::vector<double> losses, norms;
    std::vector<float> parameters;
};

inline Trained train_some(const RunConfig& config, Communicator world = Communicator(single_transport())) {
    Trainer trainer(config, {}, std::move(world));
    Trained result;
    for (int64_t i = 0; i < config.train.max_steps; ++i) {
        const StepResult step = trainer.train_step();
        result.losses.push_back(step.loss), result.norms.push_back(step.norm);
    }
    const Tensor there = trainer.model().parameters();
    result.parameters.resize(static_cast<size_t>(there.elements()));
    copy_tensor(view(result.parameters, there.shape), there, on_gpu());
    return result;
}

}  // namespace plimsoll
