#include "train/export/hf_layout.h"

#include "kernels/error.h"
#include "train/export/stock_limits.h"

namespace plimsoll {
namespace {

[[noreturn]] void refuse(const std::string& reason) {
    fail_input(
        "no class of Hugging Face's transformers computes this model: {}; plimsoll export --gguf with --arch plimsoll "
        "writes any model, for plimsoll",
        reason);
}

// Tensors of LlamaForCausalLM and what follows it.
class LlamaTensors {
  public:
    explicit LlamaTensors(const HfModel& model) : model_(model), config_(model.network), rows_(config_) {}

    std::vector<MappedTensor> make() {
        add("model.embed_tokens.weight", "wte.weight");
        for (int64_t layer = 0; layer < config_.model.layers; ++layer) block(layer);
        add("model.norm.weight", "final_norm.gain");
        if (!config_.model.tied) add("lm_head.weight", "lm_head.weight");
        return std::move(tensors_);
    }

  private:
    void add(const std::string& name, const std::string& parameter) {
        tensors_.push_back(rows_.whole(name, parameter));
    }

    void block(int64_t layer) {
        const std::string prefix = fmt::format("model.layers.{}.", layer);
        const auto add_in = [&](const std::string& name, const std::string& parameter) {
            add(prefix + name, NetworkRows::in_layer(layer, parameter));
        };
        const auto add_rows = [&](const std::string& name, std::vector<RowBlock> blocks, int64_t columns) {
            tensors_.push_back(NetworkRows::of(prefix + name, std::move(blocks), columns));
        };
        const int64_t C = rows_.C();
        add_in("input_layernorm.weight", "norm1.gain");
        add_in("post_attention_layernorm.weight", "norm2.gain");
        if (model_.kind == HfKind::kQwen3Gated)
            add_rows("self_attn.q_proj.weight",
                     rows_.queries_and_gates(layer, config_.model.heads / config_.model.key_heads()), C);
        else
            add_rows("self_attn.q_proj.weight", {rows_.queries(layer, "weight")}, C);
        add_rows("self_attn.k_proj.weight", {rows_.keys(layer, "weight")}, C);
        add_rows("self_attn.v_proj.weight", {rows_.values(layer, "weight")}, C);
        if (model_.qkv_bias) {
            add_rows("self_attn.q_proj.bias", {rows_.queries(layer, "bias")}, 0);
            add_rows("self_attn.k_proj.bias", {rows_.keys(layer, "bias")}, 0);
            add_rows("self_attn.v_proj.bias", {rows_.values(layer, "bias")}, 0);
        }
        add_in("self_attn.o_proj.weight", "attn.out.weight");
        if (model_.out_bias) add_in("self_attn.o_proj.bias", "attn.out.bias");
        if (config_.model.qk_norm) {
            add_in("self_attn.q_norm.weight", "attn.q_norm.gain");
            add_in("self_attn.k_norm.weight", "attn.k_norm.gain");
        }
        add_rows("mlp.gate_proj.weight", {rows_.gate_half(layer, "weight")}, C);
        add_rows("mlp.up_proj.weight", {rows_.up_half(layer, "weight")}, C);
        add_in("mlp.down_proj.weight", "mlp.down.weight");
        if (model_.mlp_bias) {
            add_rows("mlp.gate_proj.bias", {rows_.gate_half(layer, "bias")}, 0);
            add_rows("mlp.up_proj.bias", {rows_.up_half(layer, "bias")}, 0);
            add_in("mlp.down_proj.bias", "mlp.down.bias");
        }
    }

    const HfModel& model_;
    const NetworkConfig& config_;
    NetworkRows rows_;
    std::vector<MappedTensor> tensors_;
};

// GPT-2's linear layers are Conv1D: (in, out).
std::vector<MappedTensor> gpt2_tensors(const HfModel& model) {
    const NetworkConfig& config = model.network;
    const NetworkRows rows(config);
    std::vector<MappedTensor> tensors;
    const auto add = [&](const std::string& name, const std::string& parameter) {
        tensors.push_back(rows.whole("transformer." + name, parameter));
    };
    add("wte.weight", "wte.weight");
    add("wpe.weight", "wpe.weight");
    constexpr std::pair<const char*, const char*> kNorms[] = {{"ln_1", "norm1"}, {"ln_2", "norm2"}};
    constexpr std::pair<const char*, const char*> kLinears[] = {
        {"attn.c_attn", "attn.qkv"}, {"attn.c_proj", "attn.out"}, {"mlp.c_fc", "mlp.up"}, {"mlp.c_proj", "mlp.down"}};
    for (int64_t layer = 0; layer < config.model.layers; ++layer) {
        const std::string prefix = fmt::format("h.{}.", layer);
        const auto in_layer = [&](const std::string& name) { return NetworkRows::in_layer(layer, name); };
        for (const auto& [name, parameter] : kNorms) {
            add(prefix + name + ".weight", in_layer(parameter) + ".gain");
            add(prefix + name + ".bias", in_layer(parameter) + ".bias");
        }
        for (const auto& [name, parameter] : kLinears) {
            add(prefix + name + ".weight", in_layer(parameter) + ".weight");
            std::swap(tensors.back().shape[0], tensors.back().shape[1]);
            tensors.back().transposed = true;
            const int64_t size = tensors.back().shape[1];
            if (config.model.bias)
                add(prefix + name + ".bias", in_layer(parameter) + ".bias");
            else
                tensors.push_back(NetworkRows::filled("transformer." + prefix + name + ".bias", {size}, 0));
        }
    }
    add("ln_f.weight", "final_norm.gain");
    add("ln_f.bias", "final_norm.bias");
    if (!config.model.tied) tensors.push_back(rows.whole("lm_head.weight", "lm_head.weight"));
    return tensors;
}

// What none of the classes has.
void check_attention(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    if (const std::string reason = beyond_stock(network); !reason.empty()) refuse(reason);
    for (int64_t layer = 0; layer < m.layers; ++layer) {
        const AttentionSpec spec = network.attention.spec(layer, m);
        if (spec.weighting != Weighting::kSoftmax)
            refuse(
                fmt::format("layer {} has {} attention", layer, variants()[static_cast<size_t>(spec.weighting)].name));
        if (spec.extra_column != ExtraColumn::kNone) refuse(fmt::format("layer {} has a sink logit", layer));
        if (spec.pattern != MaskPattern::kCausal)
            refuse(fmt::format("layer {} has attention.pattern \"{}\"", layer, network.attention.pattern_name(layer)));
        if (spec.window > 0) refuse(fmt::format("layer {} has a window", layer));
        if (spec.prefix > 0) refuse(fmt::format("attention.prefix = {}", spec.prefix));
        if (network.attention.gate_at(layer) != network.attention.gate_at(0))
            refuse("layers with different gates; the gated Qwen3 has one kind in all");
    }
}

}  // namespace

HfModel hf_model(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    check_attention(network);
    HfModel result{.kind = HfKind::kLlama, .network = network};
    result.qkv_bias = result.out_bias = result.mlp_bias = m.bias;
    const std::string& gate = network.attention.gate_at(0);
    if (m.position == "learned") {
        if (m.norm != "layer" || m.activation != "gelu" || m.qk_norm || gate != "none" || m.key_heads() != m.heads ||
            m.heads * m.head_channels() != m.channels)
            refuse("with learned positions there is GPT-2: LayerNorm, GELU, without QK-norm, gate and grouped heads");
        result.kind = HfKind::kGpt2;
        result.qkv_bias = result.out_bias = result.mlp_bias = true;
        return result;
    }
    if (m.position != "rope" || m.norm != "rms" || m.activation != "swiglu")
        refuse(fmt::format("position \"{}\", norm \"{}\", activation \"{}\" (wanted \"rope\", \"rms\", \"swiglu\")",
                           m.position, m.norm, m.activation));
    if (m.bias && (m.qk_norm || gate != "none"))
        refuse("biases in feed-forward layers together with QK-norm or a gate; train with model.bias = false");
    result.kind = gate != "none" ? HfKind::kQwen3Gated : m.qk_norm ? HfKind::kQwen3 : HfKind::kLlama;
    return result;
}

std::vector<MappedTensor> hf_tensors(const HfModel& model) {
    return model.kind == HfKind::kGpt2 ? gpt2_tensors(model) : LlamaTensors(model).make();
}

}  // namespace plimsoll
