#include "train/export/gguf_tensors.h"

#include "kernels/error.h"

namespace plimsoll {
namespace {

class StockTensors {
  public:
    StockTensors(const GgufArchitecture& architecture, const NetworkConfig& network)
        : architecture_(architecture), network_(network), model_(network.model), rows_(network) {}

    std::vector<MappedTensor> make() {
        const bool gpt2 = architecture_.backbone == GgufArchitecture::Backbone::kGpt2;
        add("token_embd.weight", "wte.weight");
        if (gpt2) add("position_embd.weight", "wpe.weight");
        add("output_norm.weight", "final_norm.gain");
        if (gpt2) add("output_norm.bias", "final_norm.bias");
        if (!model_.tied || architecture_.own_head) add("output.weight", model_.tied ? "wte.weight" : "lm_head.weight");
        for (int64_t layer = 0; layer < model_.layers; ++layer) {
            prefix_ = fmt::format("blk.{}.", layer);
            if (gpt2)
                gpt2_block(layer);
            else
                llama_block(layer);
        }
        if (architecture_.name == "qwen35") recurrent_block();
        return std::move(tensors_);
    }

  private:
    void add(const std::string& name, const std::string& parameter) {
        tensors_.push_back(rows_.whole(name, parameter));
    }
    void add(const std::string& name, std::vector<RowBlock> rows, int64_t columns) {
        tensors_.push_back(NetworkRows::of(prefix_ + name, std::move(rows), columns));
    }
    void add_in(int64_t layer, const std::string& name, const std::string& parameter) {
        add(prefix_ + name, NetworkRows::in_layer(layer, parameter));
    }
    void add_filled(const std::string& name, std::vector<int64_t> shape, float fill) {
        tensors_.push_back(NetworkRows::filled(prefix_ + name, std::move(shape), fill));
    }

    // A linear layer's bias; zeros where the architecture wants one and the model has none.
    void add_bias(int64_t layer, const std::string& name, const std::string& parameter, int64_t size) {
        if (model_.bias)
            add_in(layer, name, parameter);
        else
            add_filled(name, {size}, 0);
    }

    void gpt2_block(int64_t layer) {
        for (const auto& [name, parameter] : {std::pair{"attn_norm", "norm1"}, {"ffn_norm", "norm2"}}) {
            add_in(layer, std::string(name) + ".weight", std::string(parameter) + ".gain");
            add_in(layer, std::string(name) + ".bias", std::string(parameter) + ".bias");
        }
        add_in(layer, "attn_qkv.weight", "attn.qkv.weight");
        add_bias(layer, "attn_qkv.bias", "attn.qkv.bias", 3 * model_.channels);
        add_in(layer, "attn_output.weight", "attn.out.weight");
        add_bias(layer, "attn_output.bias", "attn.out.bias", model_.channels);
        add_in(layer, "ffn_up.weight", "mlp.up.weight");
        add_bias(layer, "ffn_up.bias", "mlp.up.bias", model_.hidden());
        add_in(layer, "ffn_down.weight", "mlp.down.weight");
        add_bias(layer, "ffn_down.bias", "mlp.down.bias", model_.channels);
    }

    // Rows whose pairs RoPE rotates, in the architecture's order.
    std::vector<RowBlock> rotated(const RowBlock& block) const {
        return architecture_.pairs ? rows_.as_pairs(block) : std::vector{block};
    }

    void llama_block(int64_t layer) {
        const bool qwen35 = architecture_.name == "qwen35";
        add_in(layer, "attn_norm.weight", "norm1.gain");
        add_in(layer, qwen35 ? "post_attention_norm.weight" : "ffn_norm.weight", "norm2.gain");
        std::vector<std::string> kinds{"weight"};
        if (model_.bias) kinds.push_back("bias");
        for (const std::string& kind : kinds) {
            const int64_t columns = kind == "weight" ? model_.channels : 0;
            add("attn_q." + kind, qwen35 ? rows_.queries_and_gates(layer, 1) : rotated(rows_.queries(layer, kind)),
                columns);
            add("attn_k." + kind, rotated(rows_.keys(layer, kind)), columns);
            add("attn_v." + kind, {rows_.values(layer, kind)}, columns);
            add_in(layer, "attn_output." + kind, "attn.out." + kind);
            add("ffn_gate." + kind, {rows_.gate_half(layer, kind)}, columns);
            add("ffn_up." + kind, {rows_.up_half(layer, kind)}, columns);
            add_in(layer, "ffn_down." + kind, "mlp.down." + kind);
        }
        if (model_.qk_norm) {
            add_in(layer, "attn_q_norm.weight", "attn.q_norm.gain");
            add_in(layer, "attn_k_norm.weight", "attn.k_norm.gain");
        }
        if (network_.attention.gate_at(layer) == "headwise") add_in(layer, "attn_gate.weight", "attn.gate.weight");
        const AttentionSpec spec = network_.attention.spec(layer, model_);
        if (spec.extra_column == ExtraColumn::kLearnedLogit) add_in(layer, "attn_sinks.weight", "attn.sink_logit");
        if (spec.extra_column == ExtraColumn::kConstant)
            add_filled("attn_sinks.weight", {model_.heads}, static_cast<float>(spec.extra_logit));
    }

    void recurrent_block() {
        const int64_t C = model_.channels, F = model_.hidden(), S = kRecurrentState;
        prefix_ = fmt::format("blk.{}.", model_.layers);
        add_filled("attn_norm.weight", {C}, 1);
        add_filled("post_attention_norm.weight", {C}, 1);
        add_filled("attn_qkv.weight", {3 * S, C}, 0);
        add_filled("attn_gate.weight", {S, C}, 0);
        add_filled("ssm_conv1d.weight", {3 * S, kRecurrentKernel}, 0);
        add_filled("ssm_dt.bias", {1}, 0);
        add_filled("ssm_a", {1}, 0);
        add_filled("ssm_beta.weight", {1, C}, 0);
        add_filled("ssm_alpha.weight", {1, C}, 0);
        add_filled("ssm_norm.weight", {S}, 1);
        add_filled("ssm_out.weight", {C, S}, 0);
        add_filled("ffn_gate.weight", {F, C}, 0);
        add_filled("ffn_up.weight", {F, C}, 0);
        add_filled("ffn_down.weight", {C, F}, 0);
    }

    const GgufArchitecture& architecture_;
    const NetworkConfig& network_;
    const ModelConfig& model_;
    NetworkRows rows_;
    std::string prefix_;
    std::vector<MappedTensor> tensors_;
};

}  // namespace

std::vector<MappedTensor> stock_tensors(const GgufArchitecture& architecture, const NetworkConfig& network) {
    return StockTensors(architecture, network).make();
}

std::vector<MappedTensor> own_tensors(const NetworkConfig& network) {
    const NetworkRows rows(network);
    const ParameterTable table(network, StageRange::whole(network.model));
    std::vector<MappedTensor> tensors;
    for (const Parameter& p : table.entries()) tensors.push_back(rows.whole(p.name, p.name));
    return tensors;
}

}  // namespace plimsoll
