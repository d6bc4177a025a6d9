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
    add("gate_value", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate_value = {"elementwise", "headwise"}, c.attention.gate = {"none", "elementwise"};
    });
    add("gates_of_operands", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.gate_key = {"headwise", "shared"}, c.attention.gate_query = {"shared", "elementwise"};
        c.attention.gate_value = {"constant_elementwise", "shared"}, c.attention.gate_function = "half_sigmoid";
    });
    add("gate_projection", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate_projection = {"elementwise", "headwise"}, c.attention.gate_bias = true;
        c.attention.gate_start = 4, c.attention.gate = {"headwise"};
    });
    add("gate_silu_add", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate = {"elementwise", "headwise"}, c.attention.gate_function = "silu";
        c.attention.gate_combination = "add", c.attention.gate_projection = {"constant_elementwise"};
    });
    add("gate_constant", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate = {"constant_headwise", "constant_elementwise"};
        c.attention.gate_query = {"constant_headwise"}, c.attention.gate_projection = {"constant_headwise"};
    });
    add("head_mixture", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate = {"headwise"}, c.attention.gate_function = "softmax";
        c.attention.gate_query = {"none", "headwise"};
    });
    add("gate_of_values", tiny_llama(), [](NetworkConfig& c) {
        c.attention.gate_input = "value", c.attention.gate_value = {"elementwise", "headwise"};
        c.attention.gate = {"headwise", "elementwise"}, c.attention.gate_key = {"none", "headwise"};
        c.attention.value_temperature = {"none", "token"}, c.attention.gate_projection = {"none", "elementwise"};
    });
    all.back().documents = true;
    add("head_mixture_of_values", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.gate_input = "value", c.attention.gate = {"headwise"}, c.attention.gate_function = "softmax";
        c.attention.gate_bias = true, c.attention.gate_start = 0.3;
    });
    add("temperatures", tiny_llama(), [](NetworkConfig& c) {
        c.attention.query_temperature = {"both", "token"}, c.attention.value_temperature = {"position", "both"};
    });
    all.back().documents = true;
    add("temperature_and_gates", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.query_temperature = {"position"}, c.attention.value_temperature = {"token", "none"};
        c.attention.gate_value = {"headwise"}, c.attention.gate_query = {"none", "elementwise"};
    });
    add("post_norm", tiny_llama(), [](NetworkConfig& c) { c.attention.post_norm = true; });
    add("post_norm_layer_scale", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.post_norm = true, c.attention.layer_scale = 0.4, c.attention.gate_projection = {"elementwise"};
    });
    add("layer_scale_no_mlp", tiny_llama(),
        [](NetworkConfig& c) { c.attention.layer_scale = 0.7, c.model.activation = "none"; });
    add("sink_logit", tiny_llama(), [](NetworkConfig& c) { c.attention.extra_column = {"learned"}; });
    add("k_bias", tiny_llama(), [](NetworkConfig& c) {
        c.attention.extra_column = {"key"}, c.attention.gate = {"headwise", "elementwise"};
    });
    add("kv_bias", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.extra_column = {"key_value", "learned"}, c.attention.window = {3}, c.attention.gate = {"headwise"};
    });
    add("v_bias", tiny_llama(), [](NetworkConfig& c) {
        c.attention.value_bias = true, c.attention.gate = {"elementwise", "none"};
    });
    add("shared_columns", tiny_llama(), [](NetworkConfig& c) {
        c.attention.extra_column = {"key", "key_value"}, c.attention.value_bias = c.attention.column_shared = true;
    });
    all.back().documents = true;
    add("elu1_kv_bias", tiny_llama(),
        [](NetworkConfig& c) { c.attention.feature_map = "elu1", c.attention.extra_column = {"key_value"}; });
    add("mlp_map", tiny_llama(), [](NetworkConfig& c) {
        c.attention.feature_map = "mlp", c.attention.weighting = {"sigmoid", "softmax"};
    });
    all.back().documents = true;
    add("mlp_map_no_norm", tiny_llama(),
        [](NetworkConfig& c) { c.attention.feature_map = "mlp", c.model.qk_norm = false, c.attention.window = {4}; });
    add("elu1_no_norm", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.feature_map = "elu1", c.attention.weighting = {"softmax", "sigmoid"};
    });
    add("embedding_qk", tiny_llama(), [](NetworkConfig& c) {
        c.attention.qk_source = {"input", "embedding"}, c.attention.weighting = {"softmax", "sigmoid"};
    });
    add("embedding_qk_gpt2", tiny_gpt2(),
        [](NetworkConfig& c) { c.attention.qk_source = {"embedding"}, c.attention.gate = {"headwise"}; });
    all.back().documents = true;
    add("position_qk", tiny_llama(), [](NetworkConfig& c) {
        c.attention.qk_source = {"position", "input"}, c.attention.extra_column = {"key", "none"};
    });
    all.back().documents = true;
    add("position_qk_gpt2", tiny_gpt2(), [](NetworkConfig& c) { c.attention.qk_source = {"position"}; });
    add("merged_qk", tiny_llama(),
        [](NetworkConfig& c) { c.model.kv_heads = 3, c.attention.query_key = "merged", c.model.activation = "none"; });
    add("merged_qk_one_head", tiny_gpt2(), [](NetworkConfig& c) {
        c.model.heads = 2, c.model.kv_heads = 1, c.model.head_size = 18, c.attention.query_key = "merged";
        c.attention.qk_source = {"input", "embedding"};
    });
    add("merged_position", tiny_llama(), [](NetworkConfig& c) {
        c.model.kv_heads = 3, c.attention.query_key = "merged", c.attention.qk_source = {"position", "embedding"};
    });
    add("symmetric_qk", tiny_llama(), [](NetworkConfig& c) {
        c.model.kv_heads = 3, c.attention.query_key = "symmetric", c.attention.qk_source = {"input", "position"};
    });
    add("symmetric_qk_gpt2", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.query_key = "symmetric", c.attention.qk_source = {"input", "embedding"};
    });
    add("differential_v1", tiny_llama(), [](NetworkConfig& c) {
        c.model.heads = 4, c.model.kv_heads = 2, c.attention.differential = "v1", c.attention.window = {4, 0};
    });
    all.back().documents = true;
    add("differential_v1_gpt2", tiny_gpt2(), [](NetworkConfig& c) {
        c.model.heads = 4, c.model.kv_heads = 4, c.attention.differential = "v1";
        c.attention.weighting = {"softmax", "sigmoid"};
    });
    add("differential_v2", tiny_llama(), [](NetworkConfig& c) {
        c.model.heads = 4, c.model.kv_heads = 2, c.attention.differential = "v2";
        c.attention.extra_column = {"constant"};
    });
    add("sigmoid_alibi", tiny_llama(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid"}, c.attention.score_bias = "per_row", c.model.position = "alibi";
    });
    add("sigmoid_learned_bias", tiny_llama(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid", "softmax"}, c.attention.score_bias = "learned";
    });
    add("relu_learned_bias", tiny_gpt2(),
        [](NetworkConfig& c) { c.attention.weighting = {"relu"}, c.attention.score_bias = "learned"; });
    add("value_key_bias", tiny_llama(), [](NetworkConfig& c) {
        c.attention.key_bias = "value", c.attention.value_temperature = {"token", "none"};
        c.attention.gate = {"none", "headwise"}, c.attention.extra_column = {"key_value", "learned"};
    });
    all.back().documents = true;
    add("value_key_bias_gpt2", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.key_bias = "value", c.attention.weighting = {"sigmoid", "linear_normalized"};
        c.attention.window = {4, 0}, c.attention.gate_value = {"none", "headwise"};
    });
    add("divided_by_sums", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid_normalized", "linear_normalized"};
    });
    add("hybrid_window", tiny_gpt2(), [](NetworkConfig& c) {
        c.attention.weighting = {"sigmoid", "softmax"}, c.attention.window = {3, 0}, c.attention.pinned = 1;
    });
    add("placeholders", tiny_gpt2(), [](NetworkConfig& c) { c.attention.placeholders = 2; });
    all.back().documents = true;
    add("relu", tiny_gpt2(), [](NetworkConfig& c) { c.model.activation = "relu"; });
    add("no_mlp_z_loss", tiny_llama(), [](NetworkConfig& c) { c.model.activation = "none", c.loss.z_loss = 0.01; });
    return all;
}

// networks(), and what has an effect in training alone. Its gradient is not that of the loss: it stops at first tokens.
inline std::vector<Named> trained_networks() {
    std::vector<Named> all = networks();
    all.push_back({"bos_decorrelation", tiny_llama(), true});
    all.back().config.loss.bos_decorrelation = 3;
    return all;
}

// Whether a decoder can stream: keys change their positions, which must not be in them or in what is beside them.
inline bool can_stream(const NetworkConfig& network) {
    const AttentionConfig& a = network.attention;
    for (const auto* kinds : {&a.query_temperature, &a.value_temperature})
        for (const std::string& kind : *kinds)
            if (kind == "position" || kind == "both") return false;
    for (const std::string& pattern : a.pattern)
        if (pattern != "causal") return false;
    for (const std::string& source : a.qk_source)
        if (source == "position") return false;
    return network.model.position != "learned" && a.prefix == 0 &&
           !(network.model.position == "rope" && a.feature_map == "elu1");
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
