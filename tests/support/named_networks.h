// Small networks of every kind, by name.
#pragma once

#include <ostream>

#include "support/tiny_network.h"

namespace plimsoll {

struct Named {
    const char* name;
    NetworkConfig config;
    bool documents = false;
};
inline void PrintTo(const Named& n, std::ostream* out) {
    *out << n.name;
}

inline std::vector<Named> networks() {
    std::vector<Named> all{{"llama", tiny_llama()}, {"gpt2", tiny_gpt2()}, {"documents", tiny_llama(), true}};
    const auto add = [&](const char* name, NetworkConfig base, auto&& change) {
        change(base);
        all.push_back({name, base});
    };
    add("gate_elementwise", tiny_llama(), [](NetworkConfig& c) { c.attention.gate = {"elementwise"}; });
    add("gate_headwise", tiny_gpt2(), [](NetworkConfig& c) { c.attention.gate = {"headwise", "none"}; });
    add("sink_logit", tiny_llama(), [](NetworkConfig& c) { c.attention.extra_column = {"learned"}; });
    add("sigmoid_alibi", tiny_llama(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid"}, c.attention.score_bias = "per_row", c.model.position = "alibi";
    });
    add("hybrid_window", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid", "softmax"}, c.attention.window = {3, 0}, c.attention.pinned = 1;
    });
    add("placeholders", tiny_gpt2(), [](NetworkConfig& c) { c.attention.placeholders = 2; });
    all.back().documents = true;
    add("no_mlp_z_loss", tiny_llama(), [](NetworkConfig& c) { c.model.activation = "none", c.loss.z_loss = 0.01; });
    return all;
}

// Rows of random ids; with placeholders every document begins with them, and they are no targets.
inline TinyBatch batch_of(const NetworkConfig& config, int64_t rows, bool documents) {
    TinyBatch batch(config, rows, documents);
    const auto k = static_cast<int32_t>(config.attention.placeholders);
    for (size_t d = 0; d + 1 < batch.cu_seqlens.size(); ++d)
        for (int32_t i = 0; i < k; ++i) {
            const auto n = static_cast<size_t>(batch.cu_seqlens[d] + i);
            batch.tokens[n] = static_cast<int32_t>(config.vocab) + i, batch.targets[n] = -1;
        }
    return batch;
}
inline TinyBatch batch_of(const Named& network, int64_t rows) {
    return batch_of(network.config, rows, network.documents);
}

}  // namespace plimsoll
