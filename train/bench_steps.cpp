#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/global_norm.h"
#include "kernels/gpu.h"
#include "kernels/random.h"
#include "kernels/replay.h"
#include "train/bench_parts.h"
#include "train/optimizer.h"
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

std::vector<StepShape> step_shapes() {
    return {{"gpt2-t64", network(12, 768, 12, 3072, 64, 50304, "gelu", true, true), 4, 4},
            {"gpt2-t256", network(12, 768, 12, 3072, 256, 50304, "gelu", true, true), 4, 4},
            {"bb1", network(1, 256, 1, 1024, 256, 67, "gelu", true, true), 512, 16},
            {"bb3", network(3, 256, 1, 1024, 256, 67, "gelu", true, true), 64, 16},
            {"bb1-relu", network(1, 256, 1, 1024, 256, 67, "relu", false, false), 512, 16},
            {"gpt2-b32", network(12, 768, 12, 3072, 1024, 50304, "gelu", true, true), 32, 32, true},
            {"gpt2-b64", network(12, 768, 12, 3072, 1024, 50304, "gelu", true, true), 64, 64, true},
            {"llama-1b-t2048", llama_1b(2048), 8, 8, true},
            {"llama-1b-t8192", llama_1b(8192), 2, 2, true}};
}

double step_milliseconds(const StepShape& shape, DType dtype, int64_t steps, int64_t rows, const Exec& device,
                         std::vector<OpTime>* ops) {
    const Precision precision{dtype};
    const int64_t T = shape.network.model.context, N = rows * T;
    Exec exec = device;
    const NetworkConfig network = with_sized_logits(shape.network, N, precision, exec);
    Transformer model(network, StageRange::whole(network.model), N, precision);
    Optimizer optimizer({}, model.table(), precision, {{0, model.table().buffer_elements()}});
    reserve_gpu_scratch(scratch_sizes(model, N), exec);
    model.allocate(exec.device);
    optimizer.allocate(exec.device);
    initialize(model.parameters(), model.table(), 1, exec);
    model.refresh_working(exec);
    LocalCoreAttention core;
    const RandomStream stream(1, "bench");
    std::vector<int32_t> tokens(static_cast<size_t>(N)), targets(tokens.size()), positions(tokens.size()), cu_seqlens;
    for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<int32_t>(stream.below(i, static_cast<uint64_t>(shape.network.vocab)));
        targets[i] = static_cast<int32_t>(stream.below(i + tokens.size(), static_cast<uint64_t>(shape.network.vocab)));
        positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % T);
    }
    for (int64_t row = 0; row <= rows; ++row) cu_seqlens.push_back(static_cast<int32_t>(row * T));
    const DeviceIds device_tokens(tokens, exec), device_targets(targets, exec), device_positions(positions, exec),
        documents(cu_seqlens, exec);
    const ModelInput input{device_tokens, device_targets, device_positions, documents};
    std::array<Replay, 3> replays;  // first micro batch, others, update
    int64_t step = 0;
    const auto one = [&] {
        for (int64_t m = 0; m < shape.B / rows; ++m) {
            const Write write = m ? Write::kAccumulate : Write::kOverwrite;
            replays[m ? 1 : 0].run(exec, [&] {
                model.forward(core, input, write, exec);
                model.backward(
                    core, input, write, [](int64_t) {}, exec);
            });
        }
        const double mean = 1.0 / static_cast<double>(shape.B * T),
                     norm = std::sqrt(sum_of_squares(model.gradients(), exec)) * mean;
        optimizer.begin_step(3e-4, mean * std::min(1.0, 1.0 / norm), ++step, exec);
        replays[2].run(exec, [&] { optimizer.update(model, exec); });
    };
    one(), one();  // the second records the graphs
    const double best = best_seconds(one, static_cast<int>(steps), exec);
    if (ops) {
        Profile profile(exec);
        exec.tracer = &profile;
        one();
        *ops = profile.op_times();
    }
    return 1e3 * best;
}

}  // namespace plimsoll
