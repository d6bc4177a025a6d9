#include <algorithm>
#include <cmath>

#include "data/loader.h"
#include "kernels/gpu.h"
#include "kernels/random.h"
#include "train/bench_parts.h"
#include "train/plan.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

NetworkConfig network(int64_t layers, int64_t C, int64_t heads, int64_t F, int64_t T, int64_t V, const char* activation,
                      bool bias, bool tied) {
    NetworkConfig config;
    config.model.layers = layers, config.model.channels = C, config.model.heads = heads, config.model.ffn = F,
    config.model.context = T;
    config.model.activation = activation, config.model.bias = bias, config.model.tied = tied;
    config.model.norm = "layer", config.model.position = "learned", config.model.qk_norm = false;
    config.vocab = V;
    return config;
}

// TinyLlama's sizes: 22 layers, 32 query heads on 4 key heads of 64.
NetworkConfig llama_1b(int64_t T) {
    NetworkConfig config;
    config.model.layers = 22, config.model.channels = 2048, config.model.heads = 32, config.model.kv_heads = 4,
    config.model.ffn = 5632, config.model.context = T;
    config.model.tied = false, config.model.qk_norm = false;
    config.vocab = 32000;
    return config;
}

}  // namespace

std::vector<StepShape> step_shapes(DType compute) {
    const int64_t more = compute == DType::kBF16 ? 1 : 4;
    return {{"gpt2-t64", network(12, 768, 12, 3072, 64, 50304, "gelu", true, true), 4, 4},
            {"gpt2-t256", network(12, 768, 12, 3072, 256, 50304, "gelu", true, true), 4, 4},
            {"bb1", network(1, 256, 1, 1024, 256, 67, "gelu", true, true), 512, 8 * more},
            {"bb3", network(3, 256, 1, 1024, 256, 67, "gelu", true, true), 64, 4 * more},
            {"bb1-relu", network(1, 256, 1, 1024, 256, 67, "relu", false, false), 512, 8 * more},
            {"bb-mini", network(1, 128, 1, 512, 128, 67, "relu", false, false), 64, 16},
            {"gpt2-b32", network(12, 768, 12, 3072, 1024, 50304, "gelu", true, true), 32, 32, true},
            {"gpt2-b64", network(12, 768, 12, 3072, 1024, 50304, "gelu", true, true), 64, 64, true},
            {"llama-1b-t2048", llama_1b(2048), 8, 8, true},
            {"llama-1b-t8192", llama_1b(8192), 2, 2, true}};
}

StepBench::StepBench(const StepShape& shape, DType dtype, int64_t rows, const Exec& exec)
    : rows_(rows),
      micro_batches_(shape.B / rows),
      T_(shape.network.model.context),
      clip_(shape.clip),
      exec_(exec),
      network_(with_sized_logits(shape.network, rows * T_, Precision{dtype}, exec)),
      precision_{dtype},
      model_(network_, StageRange::whole(network_.model), rows * T_, precision_,
             {.squares = micro_batches_ == 1 && shape.clip}),
      optimizer_(shape.optimizer, model_.table(), precision_, {{0, model_.table().buffer_elements()}}) {
    const int64_t N = rows * T_;
    reserve_gpu_scratch(scratch_sizes(model_, N), exec_);
    model_.allocate(exec_.device);
    optimizer_.allocate(exec_.device);
    initialize(model_.parameters(), model_.table(), 1, exec_);
    model_.refresh_working(exec_);
    const RandomStream stream(1, "bench");
    std::vector<int32_t> tokens(static_cast<size_t>(N)), targets(tokens.size()), positions(tokens.size()), starts;
    for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<int32_t>(stream.below(i, static_cast<uint64_t>(network_.vocab)));
        targets[i] = static_cast<int32_t>(stream.below(i + tokens.size(), static_cast<uint64_t>(network_.vocab)));
        positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % T_);
    }
    for (int64_t row = 0; row <= rows; ++row) starts.push_back(static_cast<int32_t>(row * T_));
    tokens_ = std::make_unique<DeviceIds>(tokens, exec_), targets_ = std::make_unique<DeviceIds>(targets, exec_);
    positions_ = std::make_unique<DeviceIds>(positions, exec_), documents_ = std::make_unique<DeviceIds>(starts, exec_);
}

void StepBench::run() {
    const ModelInput input{*tokens_, *targets_, *positions_, *documents_};
    for (int64_t m = 0; m < micro_batches_; ++m) {
        const Write write = m ? Write::kAccumulate : Write::kOverwrite;
        replays_[m ? 1 : 0].run(exec_, [&] {
            model_.forward(core_, input, write, exec_);
            model_.backward(
                core_, input, write, [](int64_t) {}, exec_);
        });
    }
    const double mean = 1.0 / static_cast<double>(micro_batches_ * rows_ * T_);
    double scale = mean;
    if (clip_) scale *= std::min(1.0, 1.0 / (std::sqrt(model_.sum_of_gradient_squares(exec_)) * mean));
    optimizer_.begin_step(3e-4, scale, ++step_, exec_);
    replays_[2].run(exec_, [&] { optimizer_.update(model_, exec_); });
}

StepProfile StepBench::profile() {
    Profile profile(exec_, exec_.device == Device::kCpu ? Profile::Work::kCounted : Profile::Work::kIgnored);
    exec_.tracer = &profile;
    const double start = now_seconds();
    run();
    wait_for(exec_);
    const double seconds = now_seconds() - start;
    exec_.tracer = nullptr;
    return {seconds, profile.op_times()};
}

std::vector<double> step_milliseconds(const StepShape& shape, DType dtype, int64_t steps, int64_t rows,
                                      const Exec& exec, StepProfile* profile) {
    StepBench bench(shape, dtype, rows, exec);
    bench.run(), bench.run();  // the second records the graphs
    std::vector<double> times = repeated_seconds([&] { bench.run(); }, static_cast<int>(steps), exec);
    for (double& time : times) time *= 1e3;
    for (int64_t i = 0; profile && i < steps; ++i) {
        StepProfile one = bench.profile();
        if (i == 0 || one.seconds < profile->seconds) *profile = std::move(one);
    }
    return times;
}

std::vector<std::array<double, 2>> paired_step_milliseconds(const StepShape& first, const StepShape& second,
                                                            DType dtype, int64_t pairs, const Exec& exec) {
    StepBench one(first, dtype, first.micro_batch, exec), other(second, dtype, second.micro_batch, exec);
    const std::array<StepBench*, 2> sides{&one, &other};
    for (StepBench* side : sides) side->run(), side->run();
    wait_for(exec);
    std::vector<std::array<double, 2>> times(static_cast<size_t>(pairs));
    for (size_t i = 0; i < times.size(); ++i)
        for (size_t turn = 0; turn < 2; ++turn) {
            const size_t side = (i + turn) % 2;
            const double start = now_seconds();
            sides[side]->run();
            wait_for(exec);
            times[i][side] = 1e3 * (now_seconds() - start);
        }
    return times;
}

StepShape step_shape(const RunConfig& config) {
    config.validate();
    if (config.parallel.pipelined() || config.parallel.virtual_ranks > 1)
        fail_input("bench --config times a step of one process: leave out parallel.stages, chunks and virtual_ranks");
    const Loader data(config.data, Split::kTrain, training_options(config));
    return {.name = config.run.variant,
            .network = {config.model, config.attention, config.loss, data.vocab_size()},
            .B = config.batch_tokens() / config.model.context,
            .micro_batch = config.train.micro_batch,
            .optimizer = config.optimizer,
            .clip = config.train.clip > 0};
}

}  // namespace plimsoll
