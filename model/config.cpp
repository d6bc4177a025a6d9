#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// Names of MaskPattern, in the order of the enumerators.
constexpr std::array<std::string_view, 4> kPatterns = {"causal", "dilated", "strided", "blocked"};

MaskPattern pattern_by_name(const std::string& name) {
    for (size_t i = 0; i < kPatterns.size(); ++i)
        if (kPatterns[i] == name) return static_cast<MaskPattern>(i);
    fail_input("attention.pattern: '{}' is not legal; wanted one of {}", name, fmt::join(kPatterns, ", "));
}

Weighting weighting_by_name(const std::string& name) {
    for (size_t i = 0; i < variants().size(); ++i)
        if (variants()[i].name == name) return static_cast<Weighting>(i);
    std::vector<std::string_view> legal;
    for (const VariantInfo& variant : variants()) legal.push_back(variant.name);
    fail_input("attention.weighting: '{}' is no weighting; wanted one of {}", name, fmt::join(legal, ", "));
}

void check_names(const char* key, const std::vector<std::string>& values,
                 std::initializer_list<std::string_view> legal) {
    for (const std::string& value : values)
        if (std::find(legal.begin(), legal.end(), value) == legal.end())
            fail_input("{}: '{}' is not legal; wanted one of {}", key, value, fmt::join(legal, ", "));
}

void check_gates(const AttentionConfig& a) {
    const std::pair<const char*, const std::vector<std::string>*> gates[] = {
        {"attention.gate", &a.gate},
        {"attention.gate_value", &a.gate_value},
        {"attention.gate_key", &a.gate_key},
        {"attention.gate_query", &a.gate_query},
        {"attention.gate_projection", &a.gate_projection}};
    bool starts = a.gate_bias, maps = false;
    for (const auto& [key, kinds] : gates) {
        if (kinds->empty()) fail_input("{} wants at least one entry", key);
        if (kinds == &a.gate_projection)
            check_names(key, *kinds, {"none", "headwise", "elementwise", "constant_headwise", "constant_elementwise"});
        else
            check_names(key, *kinds,
                        {"none", "headwise", "elementwise", "shared", "constant_headwise", "constant_elementwise"});
        for (const std::string& kind : *kinds) {
            starts = starts || kind.starts_with("constant");
            maps = maps || (kind != "none" && !kind.starts_with("constant"));
            if (a.gate_function == "softmax" && kind != "none" && (kind != "headwise" || kinds == &a.gate_projection))
                fail_input(
                    "{} = \"{}\" with attention.gate_function = \"softmax\", which is over heads; wanted \"headwise\" "
                    "gates, and none on the projection",
                    key, kind);
        }
    }
    if (a.gate_start != 0 && !starts)
        fail_input("attention.gate_start is {}, but no gate has a bias or is constant; set attention.gate_bias = true",
                   a.gate_start);
    if (a.gate_input == "value" && !maps)
        fail_input(
            "attention.gate_input is \"value\", but no gate is a map of its input; set attention.gate_value to "
            "\"elementwise\" or \"headwise\", or another gate");
}

void check_queries_and_keys(const ModelConfig& m, const AttentionConfig& a) {
    if (a.qk_source.empty()) fail_input("attention.qk_source wants at least one entry");
    check_names("attention.qk_source", a.qk_source, {"input", "embedding", "position"});
    const int64_t keys = m.key_heads() * m.head_channels();
    if (a.query_key == "merged" && keys != m.channels)
        fail_input(
            "attention.query_key = \"merged\" makes keys of their source's {} channels (model.channels), but {} key "
            "heads of {} have {}; change model.kv_heads or model.head_size",
            m.channels, m.key_heads(), m.head_channels(), keys);
    if (a.query_key == "symmetric" && m.key_heads() != m.heads)
        fail_input(
            "attention.query_key = \"symmetric\" wants a key head for each query head, got model.kv_heads = {} for "
            "model.heads = {}; set model.kv_heads = 0",
            m.kv_heads, m.heads);
}

// Pairs of maps need pairs of heads, and stand alone: other parts of a block count model.heads.
void check_differential(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    const AttentionConfig& a = network.attention;
    const int64_t group = m.heads / m.key_heads();
    if (m.heads % 2) fail_input("attention.differential wants an even model.heads, got {}", m.heads);
    if (a.differential == "v1" && m.key_heads() % 2)
        fail_input("attention.differential = \"v1\" wants an even number of key heads, got {}", m.key_heads());
    if (a.differential == "v1" && m.position == "alibi")
        fail_input(
            "attention.differential = \"v1\" with model.position = \"alibi\": on a GPU core attention has either half "
            "of a map's values as a head, and would bias them by two slopes; take rope, learned or none");
    if (a.differential == "v2" && group % 2)
        fail_input("attention.differential = \"v2\" wants an even number of heads per key head, got {}", group);
    const auto all = [](const std::vector<std::string>& list, std::initializer_list<std::string_view> legal) {
        return std::ranges::all_of(
            list, [&](const std::string& value) { return std::ranges::find(legal, value) != legal.end(); });
    };
    bool alone = all(a.extra_column, {"none", "constant"}) && !a.value_bias && a.feature_map == "none" &&
                 a.score_bias != "learned" && a.key_bias == "none" && a.gate_input != "value";
    for (const auto* kinds :
         {&a.gate, &a.gate_value, &a.gate_key, &a.gate_query, &a.query_temperature, &a.value_temperature})
        alone = alone && all(*kinds, {"none"});
    if (!alone)
        fail_input(
            "attention.differential = \"{}\" goes without gates but gate_projection, temperatures, value_bias, "
            "feature_map, gate_input = \"value\", a learned score_bias, key_bias, and extra_column other than "
            "\"none\" and \"constant\"",
            a.differential);
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
    return extra_column_at(layer) == "learned";
}

const std::string& AttentionConfig::extra_column_at(int64_t layer) const {
    return at(extra_column, layer);
}

QkSource AttentionConfig::qk_source_at(int64_t layer) const {
    const std::string& name = at(qk_source, layer);
    if (name == "embedding") return QkSource::kEmbedding;
    return name == "position" ? QkSource::kPosition : QkSource::kInput;
}

const std::string& AttentionConfig::pattern_name(int64_t layer) const {
    return at(pattern, layer);
}

bool AttentionConfig::learned_score_bias(int64_t layer) const {
    return score_bias == "learned" && takes_bias(weighting_by_name(at(weighting, layer)));
}

AttentionConfig::CoreSizes AttentionConfig::core_sizes(const ModelConfig& model) const {
    const int64_t HS = model.head_channels();
    return {.NH = model.heads, .NKV = model.key_heads(), .HS = HS, .VS = differential == "v1" ? 2 * HS : HS};
}

AttentionSpec AttentionConfig::spec(int64_t layer, const ModelConfig& model) const {
    AttentionSpec spec;
    spec.weighting = weighting_by_name(at(weighting, layer));
    spec.scale = 1.0 / std::sqrt(static_cast<double>(model.head_channels()));
    if (takes_extra_column(spec.weighting)) {
        const std::string& column = extra_column_at(layer);
        if (column == "constant") spec.extra_column = ExtraColumn::kConstant;
        if (column == "learned") spec.extra_column = ExtraColumn::kLearnedLogit;
        spec.extra_logit = extra_logit;
    }
    if (takes_bias(spec.weighting)) {
        if (score_bias == "per_row") spec.bias_kind = ScoreBias::kPerRow;
        if (score_bias == "learned") spec.bias_kind = ScoreBias::kLearned;
        if (score_bias == "log_n") spec.score_bias = -std::log(static_cast<double>(model.context));
        if (score_bias == "constant") spec.score_bias = score_bias_value;
    }
    spec.pattern = pattern_by_name(pattern_name(layer));
    spec.window = at(window, layer);
    spec.dilation = spec.pattern == MaskPattern::kDilated ? dilation : 1;
    spec.pinned = pinned;
    spec.prefix = prefix > 1 ? prefix : 0;  // one token sees itself anyway
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
    for (const auto* list : {&attention.weighting, &attention.extra_column})
        if (list->empty()) fail_input("attention.weighting and extra_column want at least one entry");
    if (attention.pattern.empty()) fail_input("attention.pattern wants at least one entry");
    if (attention.window.empty()) fail_input("attention.window wants at least one entry");
    check_names("attention.extra_column", attention.extra_column, {"none", "constant", "learned", "key", "key_value"});
    check_queries_and_keys(model, attention);
    check_gates(attention);
    for (const auto& [key, kinds] : {std::pair{"attention.query_temperature", &attention.query_temperature},
                                     {"attention.value_temperature", &attention.value_temperature}}) {
        if (kinds->empty()) fail_input("{} wants at least one entry", key);
        check_names(key, *kinds, {"none", "token", "position", "both"});
    }
    if (attention.layer_scale < 0) fail_input("attention.layer_scale is {}, must be at least 0", attention.layer_scale);
    for (const int64_t window : attention.window) check_range("attention.window", window, 0, int64_t{1} << 40);
    check_range("attention.dilation", attention.dilation, 1, int64_t{1} << 40);
    check_range("attention.pinned", attention.pinned, 0, int64_t{1} << 40);
    check_range("attention.prefix", attention.prefix, 0, model.context - 1);
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const AttentionSpec spec = attention.spec(layer, model);
        if ((spec.pattern == MaskPattern::kStrided || spec.pattern == MaskPattern::kBlocked) && spec.window == 0)
            fail_input("attention.window: layer {} has none, but attention.pattern \"{}\", which wants one above 0",
                       layer, attention.pattern_name(layer));
    }
    check_range("attention.placeholders", attention.placeholders, 0, model.context - 2);
    bool bias_taken = false;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        const Weighting weighting = attention.spec(layer, model).weighting;
        bias_taken |= takes_bias(weighting);
        if (!takes_extra_column(weighting) && attention.extra_column_at(layer) != "none")
            fail_input(
                "attention.extra_column: layer {} has weighting '{}', which does not normalise over exp(s); wanted "
                "\"none\"",
                layer, attention.at(attention.weighting, layer));
        if (attention.extra_column_at(layer).starts_with("key") && weighting != Weighting::kSoftmax)
            fail_input("attention.extra_column: \"{}\" in layer {} wants weighting \"softmax\", got '{}'",
                       attention.extra_column_at(layer), layer, attention.at(attention.weighting, layer));
    }
    if (!bias_taken && attention.score_bias != "none" && attention.score_bias != "log_n")
        fail_input(
            "attention.score_bias is \"{}\", and no layer's weighting takes a bias ({}); wanted \"none\", or "
            "\"log_n\", "
            "the default, which they ignore",
            attention.score_bias, fmt::join(attention.weighting, ", "));
    if (attention.differential != "none") check_differential(*this);
    if (loss.z_loss < 0) fail_input("loss.z_loss is {}, must be at least 0", loss.z_loss);
    if (!(loss.bos_decorrelation >= 0))
        fail_input("loss.bos_decorrelation is {}, must be at least 0", loss.bos_decorrelation);
    check_range("loss.logits_mib", loss.logits_mib, 0, 1 << 20);
}

}  // namespace plimsoll
