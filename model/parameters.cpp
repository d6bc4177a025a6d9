#include "model/parameters.h"

#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/memory.h"
#include "kernels/random.h"
#include "model/layer_parts.h"
#include "model/qkv_map.h"

namespace plimsoll {
namespace {

using Kind = InitSpec::Kind;

}  // namespace

InitSpec Initializer::embedding() const {
    return {Kind::kNormal, pytorch() ? 1.0 : model_.init_std};
}

InitSpec Initializer::linear(int64_t fan_in) const {
    if (pytorch()) return {Kind::kUniform, 1.0 / std::sqrt(static_cast<double>(fan_in))};
    return {Kind::kNormal, model_.init_std};
}

InitSpec Initializer::residual(int64_t fan_in) const {
    InitSpec init = linear(fan_in);
    if (!pytorch()) init.scale /= std::sqrt(2.0 * static_cast<double>(model_.layers));
    return init;
}

InitSpec Initializer::bias(int64_t fan_in) const {
    return pytorch() ? linear(fan_in) : InitSpec{Kind::kZero};
}

void ParameterTable::add(std::string name, Shape shape, InitSpec init, int64_t layer, bool matrix, bool sink) {
    entries_.push_back({std::move(name), shape, init, layer, matrix, sink, buffer_elements_, {}});
    buffer_elements_ += (shape.elements() + kParameterAlignment - 1) / kParameterAlignment * kParameterAlignment;
}

void ParameterTable::add_block(const NetworkConfig& config, int64_t layer) {
    const ModelConfig& model = config.model;
    const Initializer init(model);
    const int64_t C = model.channels, NH = model.heads, HS = model.head_channels(), F = model.hidden();
    const std::string prefix = fmt::format("blocks.{}.", layer);
    const auto add_vector = [&](const std::string& name, int64_t size, InitSpec value, bool sink = false) {
        add(prefix + name, {size}, value, layer, false, sink);
    };
    const auto add_norm = [&](const std::string& name) {
        add_vector(name + ".gain", C, {Kind::kOne});
        if (model.norm == "layer") add_vector(name + ".bias", C, {Kind::kZero});
    };
    const auto add_linear = [&](const std::string& name, int64_t out, int64_t in, InitSpec value, bool bias,
                                std::vector<int64_t> stacked = {}) {
        add(prefix + name + ".weight", {out, in}, value, layer, true);
        entries_.back().stacked = std::move(stacked);
        if (bias) add_vector(name + ".bias", out, init.bias(in));
    };
    add_norm("norm1");
    const std::vector<int64_t> maps = QkvMap(config).rows();
    add_linear("attn.qkv", std::accumulate(maps.begin(), maps.end(), int64_t{0}), C, init.linear(C), model.bias, maps);
    if (model.qk_norm) {
        add_vector("attn.q_norm.gain", HS, {Kind::kOne});
        add_vector("attn.k_norm.gain", HS, {Kind::kOne});
    }
    if (config.attention.learned_extra_column(layer)) add_vector("attn.sink_logit", NH, {Kind::kZero}, true);
    if (config.attention.learned_score_bias(layer))
        add_vector("attn.score_bias", NH, {Kind::kConstant, -std::log(static_cast<double>(model.context))}, true);
    const LayerParts parts(config, layer);
    for (const ParameterSpec& p : parts.parameters()) add(prefix + p.name, p.shape, p.init, layer, p.matrix, p.sink);
    const int64_t width = parts.output_heads(NH) * HS;
    add_linear("attn.out", C, width, init.residual(width), model.bias, {C});
    if (F == 0) return;
    add_norm("norm2");
    const int64_t up = inputs_per_output(model.activation_kind());
    add_linear("mlp.up", up * F, C, init.linear(C), model.bias, std::vector<int64_t>(static_cast<size_t>(up), F));
    add_linear("mlp.down", C, F, init.residual(F), model.bias, {C});
}

ParameterTable::ParameterTable(const NetworkConfig& config, StageRange stage) {
    const ModelConfig& model = config.model;
    const Initializer init(model);
    const int64_t C = model.channels, rows = config.total_vocab();
    if (stage.embedding || (stage.head && model.tied)) add("wte.weight", {rows, C}, init.embedding(), -1, true);
    if (stage.embedding && model.position == "learned")
        add("wpe.weight", {model.context, C}, init.embedding(), -1, true);
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) add_block(config, layer);
    if (!stage.head) return;
    add("final_norm.gain", {C}, {Kind::kOne}, model.layers, false);
    if (model.norm == "layer") add("final_norm.bias", {C}, {Kind::kZero}, model.layers, false);
    if (!model.tied) add("lm_head.weight", {rows, C}, init.linear(C), model.layers, true);
}

int ParameterTable::find(std::string_view name) const {
    for (size_t i = 0; i < entries_.size(); ++i)
        if (entries_[i].name == name) return static_cast<int>(i);
    return -1;
}

int64_t ParameterTable::count() const {
    int64_t total = 0;
    for (const Parameter& p : entries_) total += p.shape.elements();
    return total;
}

int64_t ParameterTable::count_non_embedding() const {
    int64_t total = 0;
    for (const Parameter& p : entries_)
        if (p.name != "wte.weight" && p.name != "wpe.weight" && p.name != "lm_head.weight") total += p.shape.elements();
    return total;
}

Tensor ParameterTable::view(Tensor buffer, int index) const {
    if (index < 0 || !buffer) return {};
    const Parameter& p = entries_[static_cast<size_t>(index)];
    return Tensor(static_cast<char*>(buffer.data) + p.offset * size_of(buffer.dtype), buffer.dtype, p.shape,
                  buffer.device);
}

void initialize(Tensor buffer, const ParameterTable& table, uint64_t seed, const Exec& exec) {
    if (buffer.device != Device::kCpu) {  // made on the host, so that every device starts with the same bits
        const Memory memory = allocate_memory(Device::kCpu, buffer.bytes(), "initial parameters");
        const Tensor host(memory.get(), buffer.dtype, buffer.shape);
        initialize(host, table, seed, exec);
        copy_tensor(buffer, host, exec);
        return;
    }
    // Between parameters too: that buffers are equal is asked of all their bytes.
    std::memset(buffer.data, 0, static_cast<size_t>(buffer.bytes()));
    for (size_t i = 0; i < table.entries().size(); ++i) {
        const Parameter& p = table.entries()[i];
        const Tensor values = table.view(buffer, static_cast<int>(i));
        const RandomStream stream(seed, "init", p.name);
        const auto value = [&](uint64_t n) {
            switch (p.init.kind) {
                case Kind::kZero:
                    return 0.0;
                case Kind::kOne:
                    return 1.0;
                case Kind::kConstant:
                    return p.init.scale;
                case Kind::kNormal:
                    return p.init.scale * stream.normal(n);
                case Kind::kUniform:
                    return p.init.scale * (2 * stream.uniform(n) - 1);
            }
            return 0.0;
        };
        const auto fill = [&]<class T>(std::span<T> to) {
#pragma omp parallel for num_threads(exec.threads) if (to.size() > 10000)
            for (size_t n = 0; n < to.size(); ++n) to[n] = static_cast<T>(value(n));
        };
        if (values.dtype == DType::kF64)
            fill(values.span<double>());
        else
            fill(values.span<float>());
    }
}

}  // namespace plimsoll
