// Small networks and batches for tests of whole models.
#pragma once

#include <vector>

#include "kernels/random.h"
#include "model/transformer.h"

namespace plimsoll {

// Two layers, 3 query heads on 1 key head of 6, and every knob at a value that is not a power of two.
inline NetworkConfig tiny_llama() {
    NetworkConfig c;
    c.model.layers = 2, c.model.channels = 18, c.model.heads = 3, c.model.kv_heads = 1, c.model.head_size = 6;
    c.model.ffn = 14, c.model.context = 11, c.model.tied = false, c.model.init_std = 0.3;
    c.vocab = 13;
    return c;
}

inline NetworkConfig tiny_gpt2() {
    NetworkConfig c = tiny_llama();
    c.model.kv_heads = 3, c.model.activation = "gelu", c.model.norm = "layer", c.model.position = "learned";
    c.model.bias = true, c.model.tied = true, c.model.qk_norm = false;
    return c;
}

// Rows of random ids; `documents` splits every row in two.
struct TinyBatch {
    std::vector<int32_t> tokens, targets, positions, cu_seqlens{0};

    TinyBatch(const NetworkConfig& config, int64_t rows, bool documents = false, uint64_t seed = 5) {
        const RandomStream stream(seed, "tiny batch");
        const int64_t T = config.model.context, split = documents ? T / 3 : 0;
        for (int64_t n = 0; n < rows * T; ++n) {
            const auto index = static_cast<uint64_t>(n);
            tokens.push_back(static_cast<int32_t>(stream.below(2 * index, static_cast<uint64_t>(config.vocab))));
            targets.push_back(
                n % 7 == 3 ? -1
                           : static_cast<int32_t>(stream.below(2 * index + 1, static_cast<uint64_t>(config.vocab))));
            positions.push_back(static_cast<int32_t>(n % T < split ? n % T : n % T - split));
            if (documents && n % T == split) cu_seqlens.push_back(static_cast<int32_t>(n));
            if (n % T == T - 1) cu_seqlens.push_back(static_cast<int32_t>(n + 1));
        }
    }
    ModelInput input() const { return {tokens, targets, positions, cu_seqlens}; }
    int64_t n() const { return static_cast<int64_t>(tokens.size()); }
};

// A network with its parameters, ready to run.
struct TinyModel {
    Exec exec;
    Transformer model;
    LocalCoreAttention core;

    TinyModel(const NetworkConfig& config, int64_t N, DType compute, int threads = 2, ActivationOptions options = {})
        : exec{.device = Device::kCpu, .threads = threads},
          model(config, StageRange::whole(config.model), N, Precision{compute}, options) {
        model.allocate();
        initialize(model.parameters(), model.table(), 3, exec);
        model.refresh_working(exec);
    }
    double loss(const TinyBatch& batch) {
        model.forward(core, batch.input(), Write::kOverwrite, exec);
        const LossSums sums = model.loss(exec);
        return sums.nll + sums.z;
    }
    double run(const TinyBatch& batch, Write write = Write::kOverwrite) {
        const double total = loss(batch);
        model.backward(
            core, batch.input(), write, [](int64_t) {}, exec);
        return total;
    }
};

}  // namespace plimsoll
