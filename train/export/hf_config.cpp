// config.json of Hugging Face's transformers, both ways.
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "train/export/hf_layout.h"
#include "train/json_reader.h"

namespace plimsoll {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kMany = 1 << 24;
constexpr const char* kPlaceholders = "plimsoll_placeholders";

class ConfigReader {
  public:
    ConfigReader(const std::string& text, const std::string& path)
        : reader_(path), json_(reader_.parse(text)), type_(reader_.string(json_, "model_type")) {}

    HfModel read() {
        if (type_ == "gpt2")
            gpt2();
        else if (type_ == "llama" || type_ == "mistral" || type_ == "qwen2" || type_ == "qwen3")
            llama();
        else
            fail_input("{}: model_type '{}', wanted one of llama, mistral, qwen2, qwen3, gpt2", reader_.path(),
                       brief(type_));
        network_.attention.placeholders = integer_or(kPlaceholders, 0, 0);
        network_.vocab -= network_.attention.placeholders;
        network_.model.name = type_;
        model_.network = network_;
        try {
            model_.network.validate();
        } catch (const Error& error) {
            throw Error(error.code(), fmt::format("{}: {}", reader_.path(), error.what()));
        }
        return model_;
    }

  private:
    bool has(const char* key) const { return JsonReader::has(json_, key); }
    int64_t integer(const char* key, int64_t low = 1) const { return reader_.integer(json_, key, low, kMany); }
    int64_t integer_or(const char* key, int64_t other, int64_t low = 1) const {
        return has(key) ? integer(key, low) : other;
    }
    bool flag(const char* key, bool other = false) const { return has(key) ? reader_.boolean(json_, key) : other; }
    double number_or(const char* key, double other) const { return has(key) ? reader_.number(json_, key) : other; }

    // Keys that may only have the value that plimsoll computes.
    void expect_flag(const char* key, bool wanted) const {
        if (flag(key, wanted) != wanted)
            fail_input("{}: '{}' is {}, which plimsoll does not compute", reader_.path(), key, !wanted);
    }
    void expect_text(const char* key, std::initializer_list<std::string_view> wanted) const {
        const std::string& text = reader_.string(json_, key);
        if (std::find(wanted.begin(), wanted.end(), text) == wanted.end())
            fail_input("{}: '{}' is '{}', which plimsoll does not compute; wanted {}", reader_.path(), key, brief(text),
                       fmt::join(wanted, " or "));
    }

    // The base of RoPE's wavelengths; transformers 5 has it in an object.
    double rope_theta() const {
        for (const char* key : {"rope_parameters", "rope_scaling"}) {
            if (!has(key)) continue;
            const json& rope = reader_.member(json_, key);
            for (const char* kind : {"rope_type", "type"})
                if (JsonReader::has(rope, kind) && reader_.string(rope, kind) != "default")
                    fail_input("{}: '{}' is of type '{}', which plimsoll does not compute; wanted default",
                               reader_.path(), key, brief(reader_.string(rope, kind)));
            if (JsonReader::has(rope, "partial_rotary_factor") && reader_.number(rope, "partial_rotary_factor") != 1)
                fail_input("{}: RoPE of a part of a head, which plimsoll does not compute", reader_.path());
            if (JsonReader::has(rope, "rope_theta")) return reader_.number(rope, "rope_theta");
        }
        return number_or("rope_theta", 10000);
    }

    void llama() {
        ModelConfig& m = network_.model;
        expect_text("hidden_act", {"silu"});
        m.layers = integer("num_hidden_layers"), m.channels = integer("hidden_size");
        m.heads = integer("num_attention_heads"), m.kv_heads = integer_or("num_key_value_heads", m.heads);
        m.head_size = integer_or("head_dim", m.channels / m.heads), m.ffn = integer("intermediate_size");
        m.context = integer("max_position_embeddings"), m.norm_eps = reader_.number(json_, "rms_norm_eps");
        m.rope_theta = rope_theta(), m.tied = flag("tie_word_embeddings");
        if (number_or("partial_rotary_factor", 1) != 1)
            fail_input("{}: 'partial_rotary_factor' is not 1, which plimsoll does not compute", reader_.path());
        network_.vocab = integer("vocab_size");
        const bool gated = flag("headwise_attn_output_gate") || flag("elementwise_attn_output_gate");
        m.qk_norm = type_ == "qwen3" && flag("use_qk_norm", true);
        model_.kind = gated ? HfKind::kQwen3Gated : m.qk_norm ? HfKind::kQwen3 : HfKind::kLlama;
        if (gated) {
            expect_flag("qkv_bias", false);
            if (type_ != "qwen3" || (flag("headwise_attn_output_gate") && flag("elementwise_attn_output_gate")))
                fail_input("{}: a gate in a model of type '{}', or two gates; wanted one, in qwen3", reader_.path(),
                           type_);
            network_.attention.gate = {flag("headwise_attn_output_gate") ? "headwise" : "elementwise"};
        }
        model_.qkv_bias = type_ == "qwen2" || flag("attention_bias");
        model_.out_bias = type_ != "qwen2" && flag("attention_bias");
        model_.mlp_bias = type_ == "llama" && flag("mlp_bias");
        m.bias = model_.qkv_bias || model_.mlp_bias;
        windows();
    }

    void windows() {
        expect_flag("use_sliding_window", false);
        if (type_ == "mistral" && has("sliding_window")) network_.attention.window = {integer("sliding_window")};
    }

    void gpt2() {
        ModelConfig& m = network_.model;
        expect_text("activation_function", {"gelu_new", "gelu_pytorch_tanh"});
        expect_flag("scale_attn_weights", true);
        expect_flag("scale_attn_by_inverse_layer_idx", false);
        expect_flag("add_cross_attention", false);
        model_.kind = HfKind::kGpt2;
        m.layers = integer("n_layer"), m.channels = integer("n_embd"), m.heads = integer("n_head");
        m.ffn = integer_or("n_inner", 4 * m.channels), m.context = integer("n_positions");
        m.norm_eps = number_or("layer_norm_epsilon", 1e-5), m.tied = flag("tie_word_embeddings", true);
        m.norm = "layer", m.activation = "gelu", m.position = "learned", m.qk_norm = false, m.bias = true;
        model_.qkv_bias = model_.out_bias = model_.mlp_bias = true;
        network_.vocab = integer("vocab_size");
    }

    JsonReader reader_;
    json json_;
    std::string type_;
    NetworkConfig network_;
    HfModel model_;
};

ordered_json gpt2_config(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    return {{"architectures", {"GPT2LMHeadModel"}},
            {"model_type", "gpt2"},
            {"n_layer", m.layers},
            {"n_embd", m.channels},
            {"n_head", m.heads},
            {"n_inner", m.hidden()},
            {"n_positions", m.context},
            {"activation_function", "gelu_new"},
            {"layer_norm_epsilon", m.norm_eps},
            {"attn_pdrop", 0.0},
            {"embd_pdrop", 0.0},
            {"resid_pdrop", 0.0},
            {"tie_word_embeddings", m.tied},
            {"vocab_size", network.total_vocab()}};
}

ordered_json llama_config(const HfModel& model) {
    const NetworkConfig& network = model.network;
    const ModelConfig& m = network.model;
    const bool llama = model.kind == HfKind::kLlama;
    ordered_json config{{"architectures", {llama ? "LlamaForCausalLM" : "Qwen3ForCausalLM"}},
                        {"model_type", llama ? "llama" : "qwen3"},
                        {"num_hidden_layers", m.layers},
                        {"hidden_size", m.channels},
                        {"intermediate_size", m.hidden()},
                        {"num_attention_heads", m.heads},
                        {"num_key_value_heads", m.key_heads()},
                        {"head_dim", m.head_channels()},
                        {"hidden_act", "silu"},
                        {"max_position_embeddings", m.context},
                        {"rms_norm_eps", m.norm_eps},
                        {"rope_theta", m.rope_theta},
                        {"rope_scaling", nullptr},
                        {"attention_bias", model.qkv_bias},
                        {"attention_dropout", 0.0},
                        {"tie_word_embeddings", m.tied},
                        {"vocab_size", network.total_vocab()}};
    if (llama) config["mlp_bias"] = model.mlp_bias;
    if (!llama) config["use_sliding_window"] = false;
    if (model.kind == HfKind::kQwen3Gated) {
        const std::string& gate = network.attention.gate_at(0);
        config["use_qk_norm"] = m.qk_norm;
        config["qkv_bias"] = false;
        config["headwise_attn_output_gate"] = gate == "headwise";
        config["elementwise_attn_output_gate"] = gate == "elementwise";
        config["auto_map"] = {{"AutoConfig", "configuration_qwen3.Qwen3Config"},
                              {"AutoModelForCausalLM", "modeling_qwen3.Qwen3ForCausalLM"}};
    }
    return config;
}

}  // namespace

HfModel parse_hf_config(const std::string& text, const std::string& path) {
    return ConfigReader(text, path).read();
}

ordered_json hf_config(const HfModel& model) {
    ordered_json config = model.kind == HfKind::kGpt2 ? gpt2_config(model.network) : llama_config(model);
    if (model.network.attention.placeholders > 0) config[kPlaceholders] = model.network.attention.placeholders;
    return config;
}

}  // namespace plimsoll
