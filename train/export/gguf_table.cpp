#include "train/export/gguf_table.h"

#include <functional>
#include <set>

#include "kernels/error.h"
#include "train/export/stock_limits.h"

namespace plimsoll {
namespace {

using Backbone = GgufArchitecture::Backbone;
using Choice = GgufArchitecture::Choice;

// clang-format off
constexpr GgufArchitecture kTable[] = {
    {.name = "gpt2", .backbone = Backbone::kGpt2, .qk_norm = Choice::kNo, .gate = "none", .sinks = false,
     .windows = false, .bias = true, .pairs = false, .own_head = false, .since = ""},
    {.name = "llama", .backbone = Backbone::kLlama, .qk_norm = Choice::kNo, .gate = "none", .sinks = false,
     .windows = false, .bias = true, .pairs = true, .own_head = false, .since = ""},
    {.name = "qwen3", .backbone = Backbone::kLlama, .qk_norm = Choice::kYes, .gate = "none", .sinks = false,
     .windows = false, .bias = false, .pairs = false, .own_head = false, .since = ""},
    {.name = "step35", .backbone = Backbone::kLlama, .qk_norm = Choice::kEither, .gate = "headwise", .sinks = false,
     .windows = true, .bias = false, .pairs = false, .own_head = true, .since = "0.3.19"},
    {.name = "mimo2", .backbone = Backbone::kLlama, .qk_norm = Choice::kNo, .gate = "none", .sinks = true,
     .windows = true, .bias = false, .pairs = false, .own_head = true, .since = "0.3.19"},
    {.name = "qwen35", .backbone = Backbone::kLlama, .qk_norm = Choice::kYes, .gate = "elementwise", .sinks = false,
     .windows = false, .bias = false, .pairs = false, .own_head = false, .since = "0.3.36"},
};
// clang-format on

[[noreturn]] void refuse(const std::string& reason) {
    fail_input(
        "no architecture of stock llama.cpp computes this model: {}; --arch plimsoll writes a file that plimsoll reads "
        "(and stock llama.cpp refuses)",
        reason);
}

bool any_layer(const NetworkConfig& network, const std::function<bool(int64_t)>& holds) {
    for (int64_t layer = 0; layer < network.model.layers; ++layer)
        if (holds(layer)) return true;
    return false;
}

bool sink_in(const NetworkConfig& network, int64_t layer) {
    return network.attention.spec(layer, network.model).extra_column != ExtraColumn::kNone;
}

int64_t window_of(const NetworkConfig& network, int64_t layer) {
    return network.attention.spec(layer, network.model).window;
}

// What no row of the table has.
void check_backbone(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    const AttentionConfig& a = network.attention;
    for (int64_t layer = 0; layer < m.layers; ++layer) {
        const AttentionSpec spec = a.spec(layer, m);
        if (spec.pattern != MaskPattern::kCausal)
            refuse(fmt::format("layer {} has attention.pattern \"{}\", llama.cpp has windows only", layer,
                               a.pattern_name(layer)));
        if (spec.prefix > 0)
            refuse(fmt::format("attention.prefix = {}, and llama.cpp computes texts causally", spec.prefix));
        if (spec.weighting == Weighting::kSoftmax) continue;
        const std::string_view name = variants()[static_cast<size_t>(spec.weighting)].name;
        refuse(fmt::format("layer {} has {} attention, llama.cpp has softmax only, and no conversion exists", layer,
                           name));
    }
    if (const std::string reason = beyond_stock(network); !reason.empty()) refuse(reason);
    if (m.position == "alibi" || m.position == "none")
        refuse(fmt::format("model.position = \"{}\" (wanted \"rope\", or \"learned\" with LayerNorm and GELU)",
                           m.position));
    const bool llama = m.position == "rope";
    if (llama && (m.norm != "rms" || m.activation != "swiglu"))
        refuse(fmt::format("model.norm = \"{}\" and activation = \"{}\" with RoPE (wanted \"rms\" and \"swiglu\")",
                           m.norm, m.activation));
    if (!llama && (m.norm != "layer" || m.activation != "gelu"))
        refuse(
            fmt::format("model.norm = \"{}\" and activation = \"{}\" with learned positions (wanted \"layer\" and "
                        "\"gelu\", as GPT-2)",
                        m.norm, m.activation));
    if (!llama && m.heads * m.head_channels() != m.channels)
        refuse(fmt::format("{} heads of {} are not model.channels = {}, as GPT-2 wants", m.heads, m.head_channels(),
                           m.channels));
    if (!llama && m.key_heads() != m.heads)
        refuse(fmt::format("model.kv_heads = {} with learned positions; GPT-2 has as many as heads", m.kv_heads));
    if (a.placeholders > 1)
        refuse(fmt::format("attention.placeholders = {}, and runners put one token before a text, not {}",
                           a.placeholders, a.placeholders));
    std::set<int64_t> windows;
    for (int64_t layer = 0; layer < m.layers; ++layer)
        if (const int64_t window = window_of(network, layer)) windows.insert(window);
    if (windows.size() > 1)
        refuse(fmt::format("windows of {} sizes; llama.cpp has one for all layers", windows.size()));
    if (a.pinned > 0 && !windows.empty())
        refuse(fmt::format("attention.pinned = {}: llama.cpp's windows pin nothing", a.pinned));
}

bool fits(const GgufArchitecture& row, const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    const bool llama = m.position == "rope";
    if ((row.backbone == Backbone::kLlama) != llama) return false;
    if (row.qk_norm != Choice::kEither && (row.qk_norm == Choice::kYes) != m.qk_norm) return false;
    if (m.bias && !row.bias) return false;
    if (has_sinks(network) && !row.sinks) return false;
    if (has_windows(network) && !row.windows) return false;
    const auto all_gates = [&](auto... kinds) {
        return !any_layer(network, [&](int64_t layer) { return ((network.attention.gate_at(layer) != kinds) && ...); });
    };
    if (row.gate == "none") return all_gates("none");
    return row.gate == "headwise" ? all_gates("none", "headwise") : all_gates("elementwise");
}

// Why no row fits, and how to train so that one does.
std::string reason(const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    const bool elementwise = has_gate(network, "elementwise"), headwise = has_gate(network, "headwise"),
               none = has_gate(network, "none"), sinks = has_sinks(network), windows = has_windows(network);
    if (m.position != "rope")
        return fmt::format(
            "GPT-2's architecture has no {}; train without, or with model.position = \"rope\" and RMSNorm",
            m.qk_norm ? "QK-norm"
            : sinks   ? "sink logits"
            : windows ? "windows"
                      : "gate");
    if (sinks && (elementwise || headwise)) return "a gate and a sink logit together; train with one of them";
    if (sinks && m.qk_norm) return "sink logits with QK-norm; train sink logits with model.qk_norm = false";
    if (elementwise && (none || headwise))
        return "an element-wise gate in some layers only; train with it in all of them";
    if (elementwise && windows)
        return "an element-wise gate with windows; a head-wise gate with windows can be exported";
    if (elementwise && !m.qk_norm) return "an element-wise gate without QK-norm; train it with model.qk_norm = true";
    return "model.bias = true with QK-norm, a gate, windows or sink logits; train with model.bias = false";
}

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() {
    return kTable;
}

bool has_windows(const NetworkConfig& network) {
    return any_layer(network, [&](int64_t layer) { return window_of(network, layer) > 0; });
}

bool has_gate(const NetworkConfig& network, std::string_view kind) {
    return any_layer(network, [&](int64_t layer) { return network.attention.gate_at(layer) == kind; });
}

bool has_sinks(const NetworkConfig& network) {
    return any_layer(network, [&](int64_t layer) { return sink_in(network, layer); });
}

const GgufArchitecture& gguf_architecture(const NetworkConfig& network) {
    check_backbone(network);
    for (const GgufArchitecture& row : kTable)
        if (fits(row, network)) return row;
    refuse(reason(network));
}

}  // namespace plimsoll
