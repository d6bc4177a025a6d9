// The [model], [attention] and [loss] sections of a run's configuration.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/attention.h"
#include "kernels/mlp.h"
#include "kernels/norm.h"

namespace plimsoll {

// The backbone. Defaults are those of backbone A (LLaMA-like).
struct ModelConfig {
    std::string name = "custom";
    int64_t layers = 4;
    int64_t channels = 128;
    int64_t heads = 4;
    int64_t kv_heads = 0;
    int64_t head_size = 0;
    int64_t ffn = 0;
    int64_t context = 256;
    std::string activation = "swiglu";
    std::string norm = "rms";
    double norm_eps = 1e-5;
    std::string position = "rope";
    double rope_theta = 10000;
    bool bias = false;
    bool tied = true;
    bool qk_norm = true;
    std::string init = "normal";
    double init_std = 0.02;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("name", self.name, "name of the size, for logs");
        v.field("layers", self.layers, "L, number of blocks");
        v.field("channels", self.channels, "C, width of the residual stream");
        v.field("heads", self.heads, "NH, number of query heads");
        v.field("kv_heads", self.kv_heads, "NKV, number of key/value heads; 0 = heads");
        v.field("head_size", self.head_size, "HS, channels of a head; 0 = channels / heads");
        v.field("ffn", self.ffn, "F, hidden width of the feed-forward layer; 0 = 4 x channels");
        v.field("context", self.context, "T, positions in a row, placeholders included; n in the sigmoid bias -log n");
        v.choice("activation", self.activation, {"swiglu", "gelu", "relu", "none"},
                 "feed-forward activation; gelu = tanh form; none = no feed-forward layer");
        v.choice("norm", self.norm, {"rms", "layer"}, "RMSNorm, or LayerNorm with bias");
        v.field("norm_eps", self.norm_eps, "added to the mean square before the root");
        v.choice("position", self.position, {"rope", "learned", "alibi", "none"}, "how positions enter");
        v.field("rope_theta", self.rope_theta, "base of RoPE's wavelengths");
        v.field("bias", self.bias, "linear layers have biases");
        v.field("tied", self.tied, "the output head shares the token embedding's weight");
        v.field("qk_norm", self.qk_norm,
                "RMSNorm of queries and keys per head (on in backbone A, off in GPT-2 and BB)");
        v.choice("init", self.init, {"normal", "pytorch"},
                 "normal = N(0, init_std^2), residual projections / sqrt(2L); pytorch = nn.Linear and nn.Embedding "
                 "defaults");
        v.field("init_std", self.init_std, "standard deviation of init = normal");
    }

    int64_t key_heads() const { return kv_heads ? kv_heads : heads; }
    int64_t head_channels() const { return head_size ? head_size : channels / heads; }
    int64_t hidden() const { return activation == "none" ? 0 : ffn ? ffn : 4 * channels; }
    NormSpec norm_spec() const;
    Activation activation_kind() const;  // not for "none"
};

// What a variant changes. Lists give one entry per layer and repeat: ["sigmoid", "softmax"] alternates.
struct AttentionConfig {
    std::vector<std::string> weighting = {"softmax"};
    std::vector<std::string> extra_column = {"none"};
    double extra_logit = 0;
    std::string score_bias = "log_n";
    double score_bias_value = 0;
    std::vector<std::string> gate = {"none"};
    std::vector<int64_t> window = {0};
    int64_t pinned = 0;
    int64_t placeholders = 0;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.list("weighting", self.weighting, "how scores become weights, per layer; the list repeats over layers");
        v.list("extra_column", self.extra_column,
               "virtual key without a value, per layer: none, constant (logit extra_logit; 0 = softmax1), learned "
               "(one logit per head)");
        v.field("extra_logit", self.extra_logit, "logit of extra_column = constant");
        v.choice(
            "score_bias", self.score_bias, {"none", "constant", "log_n", "per_row"},
            "b added to scores of a weighting without normalisation: log_n = -log(model.context); per_row = -log of "
            "the number of visible keys; constant = score_bias_value");
        v.field("score_bias_value", self.score_bias_value, "b of score_bias = constant");
        v.list(
            "gate", self.gate,
            "gate on the attention output before the output projection (G1), per layer: none, headwise, elementwise");
        v.list("window", self.window, "sliding window in tokens, the query's own included, per layer; 0 = all");
        v.field("pinned", self.pinned, "first tokens of a document that stay visible outside the window");
        v.field("placeholders", self.placeholders, "k learnable placeholder (register) tokens before every document");
    }

    bool learned_extra_column(int64_t layer) const;
    // "none", "headwise" or "elementwise".
    const std::string& gate_at(int64_t layer) const;
    // What the kernels need for a layer.
    AttentionSpec spec(int64_t layer, const ModelConfig& model) const;
};

struct LossConfig {
    double z_loss = 0;
    int64_t logits_mib = 256;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("z_loss", self.z_loss, "weight of the mean squared log-partition, added to the loss (PaLM: 1e-4)");
        v.field("logits_mib", self.logits_mib,
                "MiB of logits kept at once; a larger vocabulary is done in chunks, computed twice");
    }
};

// Everything the network depends on. `vocab` counts the data's ids, without placeholders.
struct NetworkConfig {
    ModelConfig model;
    AttentionConfig attention;
    LossConfig loss;
    int64_t vocab = 0;

    int64_t total_vocab() const { return vocab + attention.placeholders; }
    // Throws Error (78) naming the key for sizes that cannot be built.
    void validate() const;
};

}  // namespace plimsoll
