#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "kernels/error.h"

namespace plimsoll {
namespace {

template <class T>
const T& per_layer(const std::vector<T>& values, int64_t layer) {
    return values[static_cast<size_t>(layer) % values.size()];
}

Weighting weighting_by_name(const std::string& name) {
    std::string legal;
    for (size_t i = 0; i < variants().size(); ++i) {
        if (variants()[i].name == name) return static_cast<Weighting>(i);
        legal += (legal.empty() ? "" : ", ") + std::string(variants()[i].name);
    }
    fail_input("attention.weighting: '{}' is no weighting; wanted one of {}", name, legal);
}

void check_names(const char* key, const std::vector<std::string>& values,
                 std::initializer_list<std::string_view> legal) {
    for (const std::string& value : values)
        if (std::find(legal.begin(), legal.end(), value) == legal.end())
            fail_input("{}: '{}' is not legal; wanted one of {}", key, value, fmt::join(legal, ", "));
}

}  // namespace

NormSpec ModelConfig::norm_spec() const {
    return {.kind = norm == "layer" ? NormKind::kLayer : NormKind::kRms, .eps = norm_eps};
}

Activation ModelConfig::activation_kind() const {
    if (activation == "swiglu") return Activation::kSwiglu;
    if (activation == "gelu") return Activation::kGelu;
    check(activation == "relu", "model.activation '{}' has no kernel", activation);
    return Activation::kRelu;
}

bool AttentionConfig::learned_extra_column(int64_t layer) const {
    return per_layer(extra_column, layer) == "learned";
}

const std::string& AttentionConfig::gate_at(int64_t layer) const {
    return per_layer(gate, layer);
}

AttentionSpec AttentionConfig::spec(int64_t layer, const ModelConfig& model) const {
    AttentionSpec spec;
    spec.weighting = weighting_by_name(per_layer(weighting, layer));
    spec.scale = 1.0 / std::sqrt(static_cast<double>(model.head_channels()));
    if (is_normalized(spec.weighting)) {
        const std::string& column = per_layer(extra_column, layer);
        if (column == "constant") spec.extra_column = ExtraColumn::kConstant;
        if (column == "learned") spec.extra_column = ExtraColumn::kLearnedLogit;
        spec.extra_logit = extra_logit;
    } else {
        if (score_bias == "per_row") spec.bias_kind = ScoreBias::kPerRow;
        if (score_bias == "log_n") spec.score_bias = -std::log(static_cast<double>(model.context));
        if (score_bias == "constant") spec.score_bias = score_bias_value;
    }
    spec.window = per_layer(window, layer);
    spec.pinned = pinned;
    spec.alibi = model.position == "alibi";
    return spec;
}

void NetworkConfig::validate() const {
    constexpr int64_t kMaxLayers = 1000, kMaxWidth = 1 << 20, kMaxVocab = 1 << 24;
    check_range("model.layers", model.layers, 1, kMaxLayers);
    check_range("model.channels", model.channels, 1, kMaxWidth);
    check_range("model.heads", model.heads, 1, kMaxWidth);
    check_range("model.kv_heads", model.kv_heads, 0, model.heads);
    check_range("model.ffn", model.ffn, 0, kMaxWidth);
    check_range("model.context", model.context, 2, 1 << 24);
    if (vocab) check_range("vocabulary size", vocab, 2, kMaxVocab);
    if (!model.head_size && model.channels % model.heads)
        fail_input(
            "model.channels is {}, not a multiple of model.heads = {}; set model.head_size or change one of them",
            model.channels, model.heads);
    check_range("model.head_size", model.head_channels(), 1, 256);
    if (model.heads % model.key_heads())
        fail_input("model.heads is {}, not a multiple of model.kv_heads = {}", model.heads, model.kv_heads);
    if (model.position == "rope" && model.head_channels() % 2)
        fail_input("model.position = \"rope\" wants an even head size, got {}", model.head_channels());
    if (model.norm_eps <= 0 || model.rope_theta <= 0 || model.init_std < 0)
        fail_input("model.norm_eps and model.rope_theta must be above 0, model.init_std at least 0");
    for (const auto* list : {&attention.weighting, &attention.extra_column, &attention.gate})
        if (list->empty()) fail_input("attention.weighting, extra_column and gate want at least one entry");
    if (attention.window.empty()) fail_input("attention.window wants at least one entry");
    check_names("attention.extra_column", attention.extra_column, {"none", "constant", "learned"});
    check_names("attention.gate", attention.gate, {"none", "headwise", "elementwise"});
    for (const int64_t window : attention.window) check_range("attention.window", window, 0, int64_t{1} << 40);
    check_range("attention.pinned", attention.pinned, 0, int64_t{1} << 40);
    check_range("attention.placeholders", attention.placeholders, 0, model.context - 2);
    for (int64_t layer = 0; layer < model.layers; ++layer)
        if (!is_normalized(attention.spec(layer, model).weighting) &&
            per_layer(attention.extra_column, layer) != "none")
            fail_input("attention.extra_column: layer {} has weighting '{}', which does not normalise; wanted \"none\"",
                       layer, per_layer(attention.weighting, layer));
    if (loss.z_loss < 0) fail_input("loss.z_loss is {}, must be at least 0", loss.z_loss);
    check_range("loss.logits_mib", loss.logits_mib, 1, 1 << 20);
}

}  // namespace plimsoll
