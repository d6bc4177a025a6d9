// Fixtures of tests/golden: a network's configuration, one batch, parameters, and what PyTorch made of them.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace plimsoll {

struct Fixture {
    NetworkConfig network;
    std::vector<int32_t> tokens, targets, positions, cu_seqlens;
    double loss = 0;                                     // mean over the scored targets
    double decorrelation = 0;                            // per scored target, without its weight
    std::map<std::string, std::vector<double>> tensors;  // "param/wte.weight", "grad/...", "logits/...", "block_in/..."

    ModelInput input() const { return {tokens, targets, positions, cu_seqlens}; }
    int64_t n() const { return static_cast<int64_t>(tokens.size()); }
};

// Names of the fixtures in a folder.
inline std::vector<std::string> fixture_names(const std::string& folder) {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder))
        if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
    std::sort(names.begin(), names.end());
    return names;
}

// One value or a list of them.
template <class T>
std::vector<T> one_or_many(const nlohmann::json& value) {
    return value.is_array() ? value.get<std::vector<T>>() : std::vector<T>{value.get<T>()};
}

inline Fixture read_fixture(const std::string& folder, const std::string& name) {
    const nlohmann::json j = nlohmann::json::parse(std::ifstream(folder + "/" + name + ".json"));
    const nlohmann::json& c = j.at("config");
    Fixture f;
    ModelConfig& m = f.network.model;
    m.layers = c.at("model.layers"), m.channels = c.at("model.channels"), m.heads = c.at("model.heads");
    m.kv_heads = c.at("model.kv_heads"), m.head_size = c.at("model.head_size"), m.ffn = c.at("model.ffn");
    m.activation = c.at("model.activation"), m.norm = c.at("model.norm"), m.norm_eps = c.at("model.norm_eps");
    m.position = c.at("model.position"), m.rope_theta = c.at("model.rope_theta"), m.bias = c.at("model.bias");
    m.tied = c.at("model.tied"), m.qk_norm = c.at("model.qk_norm"), m.context = c.at("T");
    AttentionConfig& a = f.network.attention;
    a.weighting = one_or_many<std::string>(c.at("attention.weighting"));
    a.extra_column = one_or_many<std::string>(c.at("attention.extra_column"));
    a.extra_logit = c.at("attention.extra_logit"), a.score_bias = c.at("attention.score_bias");
    a.score_bias_value = c.at("attention.score_bias_value"), a.gate = one_or_many<std::string>(c.at("attention.gate"));
    a.window = one_or_many<int64_t>(c.at("attention.window")), a.pinned = c.at("attention.pinned");
    a.placeholders = c.at("attention.placeholders");
    a.column_shared = c.value("attention.column_shared", false), a.value_bias = c.value("attention.value_bias", false);
    if (c.contains("attention.qk_source")) a.qk_source = one_or_many<std::string>(c.at("attention.qk_source"));
    a.query_key = c.value("attention.query_key", "separate");
    a.feature_map = c.value("attention.feature_map", "none");
    a.key_bias = c.value("attention.key_bias", "none");
    if (c.contains("attention.pattern")) a.pattern = one_or_many<std::string>(c.at("attention.pattern"));
    a.prefix = c.value("attention.prefix", a.prefix);
    const auto kinds = [&](const char* key) { return one_or_many<std::string>(c.value(key, nlohmann::json("none"))); };
    a.gate_value = kinds("attention.gate_value"), a.gate_key = kinds("attention.gate_key");
    a.gate_query = kinds("attention.gate_query"), a.gate_projection = kinds("attention.gate_projection");
    a.gate_input = c.value("attention.gate_input", a.gate_input);
    a.gate_function = c.value("attention.gate_function", a.gate_function);
    a.gate_combination = c.value("attention.gate_combination", a.gate_combination);
    a.gate_bias = c.value("attention.gate_bias", false), a.gate_start = c.value("attention.gate_start", 0.0);
    a.query_temperature = kinds("attention.query_temperature");
    a.value_temperature = kinds("attention.value_temperature");
    a.post_norm = c.value("attention.post_norm", false), a.layer_scale = c.value("attention.layer_scale", 0.0);
    a.differential = c.value("attention.differential", "none");
    f.network.loss.z_loss = c.at("loss.z_loss");
    f.network.loss.bos_decorrelation = c.value("loss.bos_decorrelation", 0.0);
    f.network.vocab = c.at("vocab");
    f.tokens = j.at("tokens").get<std::vector<int32_t>>(), f.targets = j.at("targets").get<std::vector<int32_t>>();
    f.positions = j.at("positions").get<std::vector<int32_t>>(),
    f.cu_seqlens = j.at("cu_seqlens").get<std::vector<int32_t>>();
    f.loss = j.at("loss"), f.decorrelation = j.value("decorrelation", 0.0);
    std::ifstream bin(folder + "/" + name + ".bin", std::ios::binary);
    for (const nlohmann::json& t : j.at("tensors")) {
        size_t count = 1;
        for (const int64_t dim : t.at("shape")) count *= static_cast<size_t>(dim);
        std::vector<double> values(count);
        bin.seekg(static_cast<std::streamoff>(t.at("offset").get<int64_t>() * 8));
        bin.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * 8));
        EXPECT_TRUE(bin.good()) << name << ".bin ends inside " << t.at("name");
        f.tensors[t.at("kind").get<std::string>() + "/" + t.at("name").get<std::string>()] = std::move(values);
    }
    return f;
}

// A tensor of any floating dtype as doubles, row by row.
inline std::vector<double> doubles(Tensor t) {
    std::vector<double> out;
    dispatch_float(t.dtype, [&]<class T>() {
        for (const T value : t.span<T>()) out.push_back(static_cast<double>(static_cast<Accumulator<T>>(value)));
    });
    return out;
}

// Writes values, rounded, into an fp32 or fp64 tensor.
inline void assign(Tensor t, const std::vector<double>& values) {
    ASSERT_EQ(t.elements(), static_cast<int64_t>(values.size()));
    if (t.dtype == DType::kF64)
        std::copy(values.begin(), values.end(), t.span<double>().begin());
    else
        std::transform(values.begin(), values.end(), t.span<float>().begin(),
                       [](double v) { return static_cast<float>(v); });
}

}  // namespace plimsoll
