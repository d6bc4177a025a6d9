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

// What a layer maps queries and keys from (qk_source.h).
enum class QkSource : uint8_t { kInput, kEmbedding, kPosition };

// What a variant changes. Lists give one entry per layer and repeat: ["sigmoid", "softmax"] alternates.
struct AttentionConfig {
    std::vector<std::string> weighting = {"softmax"};
    std::vector<std::string> extra_column = {"none"};
    double extra_logit = 0;
    bool column_shared = false;
    bool value_bias = false;
    std::string score_bias = "log_n";
    double score_bias_value = 0;
    std::string key_bias = "none";
    std::vector<std::string> qk_source = {"input"};
    std::string query_key = "separate";
    std::string feature_map = "none";
    std::string differential = "none";
    std::vector<std::string> gate = {"none"};
    std::vector<std::string> gate_value = {"none"};
    std::vector<std::string> gate_key = {"none"};
    std::vector<std::string> gate_query = {"none"};
    std::vector<std::string> gate_projection = {"none"};
    std::string gate_input = "block";
    std::string gate_function = "sigmoid";
    std::string gate_combination = "multiply";
    bool gate_bias = false;
    double gate_start = 0;
    std::vector<std::string> pattern = {"causal"};
    std::vector<std::string> query_temperature = {"none"};
    std::vector<std::string> value_temperature = {"none"};
    bool post_norm = false;
    double layer_scale = 0;
    std::vector<int64_t> window = {0};
    int64_t dilation = 2;
    int64_t pinned = 0;
    int64_t prefix = 0;
    int64_t placeholders = 0;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.list("weighting", self.weighting, "how scores become weights, per layer; the list repeats over layers");
        v.list("extra_column", self.extra_column,
               "virtual key beside the keys, per layer: none, constant (logit extra_logit; 0 = softmax1), learned "
               "(one logit per head), key (K bias: logit scale q.k*), key_value (KV bias: with a value v* too)");
        v.field("extra_logit", self.extra_logit, "logit of extra_column = constant");
        v.field(
            "column_shared", self.column_shared,
            "k* and v* of extra_column = key and key_value, and value_bias, are one vector for all heads of a layer");
        v.field("value_bias", self.value_bias,
                "V bias: a learned vector v* added to attention's output of every head, behind the gate");
        v.choice(
            "score_bias", self.score_bias, {"none", "constant", "log_n", "per_row", "learned"},
            "b of weightings that take one, others ignore it (sigmoid: added to scores; relu: weights times exp(b)): "
            "log_n = -log(model.context); per_row = -log of the number of visible keys; constant = score_bias_value; "
            "learned = one per head, from log_n on");
        v.field("score_bias_value", self.score_bias_value, "b of score_bias = constant");
        v.choice(
            "key_bias", self.key_bias, {"none", "value"},
            "added to every score of a key, before the mask: value = w . v, v the key's value, w learned per head");
        v.list("qk_source", self.qk_source,
               "what queries and keys are mapped from, per layer: input (the block's normed input, as values are), "
               "embedding (the stream as it enters the first block), position (fixed random vectors, one per position: "
               "scores do not depend on the text)");
        v.choice("query_key", self.query_key, {"separate", "merged", "symmetric"},
                 "matrices of queries and keys: merged = one, keys are their source itself (W_K = 1); symmetric = one "
                 "for both");
        v.choice("feature_map", self.feature_map, {"none", "elu1", "mlp"},
                 "scores of phi(q) and phi(k): elu1 = elu(x) + 1 per channel after RoPE; mlp = W2 relu(W1 x) before "
                 "RoPE, one per layer for queries, keys and heads");
        v.choice(
            "differential", self.differential, {"none", "v1", "v2"},
            "differential attention: heads in pairs, the difference of two score maps; v1 = values two heads wide, "
            "one lambda per layer, normed; v2 = lambda per token and pair, half the output's heads");
        v.list(
            "gate", self.gate,
            "gate on the attention output before the output projection (G1), per layer: none, headwise, elementwise, "
            "shared (by the heads), constant_headwise, constant_elementwise (learned, the same for every token)");
        v.list("gate_value", self.gate_value, "gate on values (G2), per layer, of the kinds of gate");
        v.list("gate_key", self.gate_key, "gate on keys, behind QK-norm and RoPE (G3), likewise");
        v.list("gate_query", self.gate_query, "gate on queries, behind QK-norm and RoPE (G4), likewise");
        v.list("gate_projection", self.gate_projection,
               "gate on the output projection's output (G5), likewise; headwise = one per token; not shared");
        v.choice("gate_input", self.gate_input, {"block", "value"},
                 "what gates are linear maps of: block = the block's normed input; value = the token's values, all key "
                 "heads' (with gate_value: value-state gated attention)");
        v.choice(
            "gate_function", self.gate_function, {"sigmoid", "half_sigmoid", "silu", "softmax"},
            "of every gate; half_sigmoid = 1/2 + sigmoid/2; softmax = heads x softmax over a token's heads (a soft "
            "mixture of heads), for headwise gates");
        v.choice("gate_combination", self.gate_combination, {"multiply", "add"}, "how gates act");
        v.field("gate_bias", self.gate_bias, "gates have a learned bias, which starts at gate_start");
        v.field("gate_start", self.gate_start,
                "where biases of gates and constant gates start; +4 lets a sigmoid gate begin almost open");
        v.list(
            "query_temperature", self.query_temperature,
            "queries times 1 + tanh(x w) (token), 1 + sigmoid(alpha) log(position + 1) (position), or both, per layer "
            "and head: none, token, position, both");
        v.list("value_temperature", self.value_temperature, "values, likewise");
        v.field("post_norm", self.post_norm, "norm on the attention branch before it joins the stream (hybrid norm)");
        v.field("layer_scale", self.layer_scale,
                "start of a learned vector that the attention branch is multiplied by (LayerScale: 1e-4); 0 = none");
        v.list("pattern", self.pattern,
               "which earlier keys a query sees, per layer: causal; dilated (every dilation-th); strided (the last "
               "window, and before them every window-th: Child et al.); blocked (of its own block of window tokens)");
        v.list(
            "window", self.window,
            "sliding window in tokens, the query's own included, per layer; 0 = all; a dilated one has as many keys");
        v.field("dilation", self.dilation, "step between the keys of pattern = dilated");
        v.field("pinned", self.pinned, "first tokens of a document that all later ones see, whatever the pattern");
        v.field("prefix", self.prefix,
                "prefix-LM: first tokens of a document, placeholders included, that see one another in both "
                "directions; targets among them are not scored");
        v.field("placeholders", self.placeholders, "k learnable placeholder (register) tokens before every document");
    }

    bool learned_extra_column(int64_t layer) const;
    bool learned_score_bias(int64_t layer) const;
    // "none", "constant", "learned", "key" or "key_value".
    const std::string& extra_column_at(int64_t layer) const;
    QkSource qk_source_at(int64_t layer) const;
    // As in the configuration, such as "dilated".
    const std::string& pattern_name(int64_t layer) const;
    // The kind of gate on the attention output.
    const std::string& gate_at(int64_t layer) const { return at(gate, layer); }
    // Whether gates are products with a sigmoid.
    bool plain_gates() const { return gate_function == "sigmoid" && gate_combination == "multiply"; }
    // A layer's entry of one of the lists.
    template <class T>
    static const T& at(const std::vector<T>& values, int64_t layer) {
        return values[static_cast<size_t>(layer) % values.size()];
    }
    // The sizes of core attention: heads of queries, and of keys and values; channels of queries and keys, and of
    // values and outputs, which are two heads wide with differential = "v1".
    struct CoreSizes {
        int64_t NH, NKV, HS, VS;
    };
    CoreSizes core_sizes(const ModelConfig& model) const;
    // What the kernels need for a layer.
    AttentionSpec spec(int64_t layer, const ModelConfig& model) const;
};

struct LossConfig {
    double z_loss = 0;
    double bos_decorrelation = 0;
    int64_t logits_mib = 0;
    static constexpr int64_t kUsualLogitsMib = 256;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("z_loss", self.z_loss, "weight of the mean squared log-partition, added to the loss (PaLM: 1e-4)");
        v.field("bos_decorrelation", self.bos_decorrelation,
                "weight of the squared cosine between each token and its document's first, mean over the streams that "
                "enter blocks; in training only, reported beside the loss; 0 = off");
        v.field(
            "logits_mib", self.logits_mib,
            "MiB of logits kept at once; a larger vocabulary is done in chunks, computed twice. 0 = 256, on a GPU all "
            "of a micro batch up to a sixteenth of its memory");
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
