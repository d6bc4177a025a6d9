#include "train/interventions.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <set>

#include "train/head_probe.h"

namespace plimsoll {
namespace {

constexpr std::array<std::string_view, 6> kKinds{"zero",           "identity", "first",
                                                 "zero_attention", "zero_mlp", "zero_block"};
// Of the battery: the first token away, halved, doubled.
constexpr std::array<double, 3> kGammas{0, 0.5, 2};
// Statistic of a row beside which a column's weight exp(e - lse) is 0, in float and in double.
constexpr double kAlone = 1e30;

std::vector<std::string_view> split(std::string_view text, char separator) {
    std::vector<std::string_view> parts;
    while (true) {
        const size_t end = text.find(separator);
        parts.push_back(text.substr(0, end));
        if (end == std::string_view::npos) return parts;
        text.remove_prefix(end + 1);
    }
}

template <class T>
T number(std::string_view text, std::string_view key, std::string_view all) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size())
        fail_input("--intervene '{}': {} is '{}', wanted a number", brief(all), key, brief(text));
    return value;
}

Intervention parse_one(std::string_view text, const ModelConfig& model) {
    Intervention result;
    std::set<std::string_view> seen;
    const auto index = [&](std::string_view value, std::string_view key, int64_t count) {
        const auto at = number<int64_t>(value, key, text);
        if (at < 0 || at >= count)
            fail_input("--intervene '{}': {} is {}, the model has 0 .. {}", brief(text), key, at, count - 1);
        return at;
    };
    for (const std::string_view part : split(text, ',')) {
        const size_t equals = part.find('=');
        const std::string_view key = part.substr(0, equals),
                               value = equals == std::string_view::npos ? "" : part.substr(equals + 1);
        if (equals == std::string_view::npos || !seen.insert(key).second)
            fail_input("--intervene '{}': '{}' is not one key=value; wanted e.g. layer=1,head=0,kind=zero", brief(text),
                       brief(part));
        if (key == "layer")
            result.layer = index(value, key, model.layers);
        else if (key == "head")
            result.head = index(value, key, model.heads);
        else if (key == "value")
            result.value = number<double>(value, key, text);
        else if (key == "kind") {
            const auto* kind = std::find(kKinds.begin(), kKinds.end(), value);
            if (kind == kKinds.end())
                fail_input("--intervene '{}': kind '{}' is none of {}", brief(text), brief(value),
                           fmt::join(kKinds, ", "));
            result.kind = static_cast<InterventionKind>(kind - kKinds.begin());
        } else
            fail_input("--intervene '{}': '{}' is none of layer, head, kind, value", brief(text), brief(key));
    }
    const std::string_view kind = kKinds[static_cast<size_t>(result.kind)];
    if (!seen.contains("kind"))
        fail_input("--intervene '{}' names no kind; there are {}", brief(text), fmt::join(kKinds, ", "));
    if (!result.of_heads() && seen.contains("head"))
        fail_input("--intervene '{}': {} is of a whole layer and has no head", brief(text), kind);
    if (seen.contains("value") != (result.kind == InterventionKind::kFirst))
        fail_input("--intervene '{}': value is the factor of kind=first, which needs one; no other kind has one",
                   brief(text));
    if (!(result.value >= 0) || !std::isfinite(result.value))
        fail_input("--intervene '{}': value is {}, wanted a finite number from 0", brief(text), result.value);
    if (result.kind == InterventionKind::kZeroMlp && model.hidden() == 0)
        fail_input("--intervene '{}': the model has no feed-forward layers (model.activation = \"none\")", brief(text));
    return result;
}

// Writes f(old value, channel) over row i of a head.
template <class F>
void change_row(Tensor rows, int64_t i, F&& f) {
    for (int64_t c = 0; c < rows.shape[1]; ++c) {
        const int64_t at = i * rows.row_stride + c;
        set_element(rows, at, f(element(rows, at), c));
    }
}

// By what the new weights of a row that is normalised are divided, so that it sums to what it did. Summed anew:
// 1 - A_i0 would lose what is beside a weight near 1. Only an extra column, whose weight is not in the row, is what the
// others leave of 1.
double divisor(const HeadWeights& weights, const AttentionSpec& spec, int64_t i, double gamma) {
    const double first = weights.weight(i, 0);
    double rest = 0;
    for (int64_t j = 1; j < weights.keys_end(i); ++j) rest += weights.weight(i, j);
    if (spec.extra_column != ExtraColumn::kNone) rest += std::max(0.0, 1 - first - rest);
    return (gamma * first + rest) / (first + rest);
}

void scale_first(const AttentionCall& call, int64_t head, int64_t begin, int64_t n, double gamma) {
    if (gamma == 1) return;
    const AttentionTensors& t = call.t;
    const HeadWeights weights(t, call.spec, head, begin, n);
    const Tensor out = head_rows(t.out, head, begin, n),
                 v = head_rows(t.v, head / (t.q.shape[1] / t.v.shape[1]), begin, n);
    const bool normalized = is_normalized(call.spec.weighting);
    std::vector<double> change(static_cast<size_t>(out.shape[1]));
    for (int64_t i = 0; i < n; ++i) {
        if (weights.weight(i, 0) == 0) continue;
        const double by = normalized ? divisor(weights, call.spec, i, gamma) : 1;
        if (call.spec.weighting == Weighting::kSoftmax) {  // a key column behind core attention shares rows by lse
            const int64_t at = head * t.q.shape[0] + begin + i;
            set_element(t.lse, at, element(t.lse, at) + std::log(by));
        }
        if (!(by > 0)) {  // nothing else to see
            change_row(out, i, [](double, int64_t) { return 0.0; });
            continue;
        }
        std::fill(change.begin(), change.end(), 0.0);
        for (int64_t j = 0; j < weights.keys_end(i); ++j) {
            const double more = weights.weight(i, j) * ((j == 0 ? gamma : 1) / by - 1);
            if (more == 0) continue;
            for (size_t c = 0; c < change.size(); ++c)
                change[c] += more * element(v, j * v.row_stride + static_cast<int64_t>(c));
        }
        const double g = head_gate(t, begin + i, head);
        change_row(out, i, [&](double old, int64_t c) { return old + g * change[static_cast<size_t>(c)]; });
    }
}

void intervene(const AttentionCall& call, const Intervention& intervention, int64_t head, int64_t begin, int64_t n) {
    const AttentionTensors& t = call.t;
    const Tensor out = head_rows(t.out, head, begin, n);
    if (intervention.kind == InterventionKind::kFirst) return scale_first(call, head, begin, n, intervention.value);
    const bool identity = intervention.kind == InterventionKind::kIdentity;
    const Tensor v = head_rows(t.v, head / (t.q.shape[1] / t.v.shape[1]), begin, n);
    for (int64_t i = 0; i < n; ++i) {
        const double g = identity ? head_gate(t, begin + i, head) : 0;
        change_row(out, i, [&](double, int64_t c) { return identity ? g * element(v, i * v.row_stride + c) : 0.0; });
        if (call.spec.weighting == Weighting::kSoftmax) set_element(t.lse, head * t.q.shape[0] + begin + i, kAlone);
    }
}

// What is made on a head of a layer; null if nothing is.
const Intervention* made_on(const Interventions& interventions, int64_t layer, int64_t head) {
    const Intervention* last = nullptr;
    for (const Intervention& one : interventions)
        if (one.of_heads() && (one.layer < 0 || one.layer == layer) && (one.head < 0 || one.head == head)) last = &one;
    return last;
}

}  // namespace

Interventions parse_interventions(std::string_view text, const ModelConfig& model) {
    Interventions result;
    for (const std::string_view part : split(text, '+')) result.push_back(parse_one(part, model));
    return result;
}

std::string to_string(const Interventions& interventions) {
    std::vector<std::string> parts;
    for (const Intervention& one : interventions) {
        std::string text;
        if (one.layer >= 0) text += fmt::format("layer={},", one.layer);
        if (one.head >= 0) text += fmt::format("head={},", one.head);
        text += fmt::format("kind={}", kKinds[static_cast<size_t>(one.kind)]);
        if (one.kind == InterventionKind::kFirst) text += fmt::format(",value={}", one.value);
        parts.push_back(std::move(text));
    }
    return fmt::format("{}", fmt::join(parts, "+"));
}

std::vector<Interventions> intervention_battery(const ModelConfig& model) {
    using enum InterventionKind;
    std::vector<Interventions> all;
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        all.push_back({{.kind = kZeroAttention, .layer = layer}});
        if (model.hidden() > 0)
            all.insert(all.end(), {{{.kind = kZeroMlp, .layer = layer}}, {{.kind = kZeroBlock, .layer = layer}}});
        all.push_back({{.kind = kIdentity, .layer = layer}});
    }
    for (int64_t layer = 0; layer < model.layers && model.heads > 1; ++layer)  // a layer's only head is its attention
        for (int64_t head = 0; head < model.heads; ++head)
            all.push_back({{.kind = kZero, .layer = layer, .head = head}});
    for (const double gamma : kGammas) all.push_back({{.kind = kFirst, .value = gamma}});
    return all;
}

void IntervenedAttention::end_forward(const AttentionCall& call, const Exec& exec) {
    core_.end_forward(call, exec);
    check(call.t.out.device == Device::kCpu, "interventions are made in host memory");
    const int64_t NH = call.t.q.shape[1], documents = static_cast<int64_t>(call.cu_seqlens.size()) - 1;
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
    for (int64_t unit = 0; unit < documents * NH; ++unit) {
        const auto d = static_cast<size_t>(unit / NH);
        const int64_t head = unit % NH;
        if (const Intervention* here = made_on(interventions_, call.layer, head))
            intervene(call, *here, head, call.cu_seqlens[d], call.cu_seqlens[d + 1] - call.cu_seqlens[d]);
    }
}

void IntervenedAttention::compute_backward(const AttentionCall& /*call*/, const Exec& /*exec*/) {
    check(false, "interventions on heads have no backward");
}

WithoutBranches::WithoutBranches(Transformer& model, const Interventions& interventions) {
    const NetworkConfig& config = model.config();
    // Columns [begin, end) of a parameter's rows, or all of them, in all its precisions.
    const auto zero = [&](const std::string& name, bool wanted, int64_t begin = 0, int64_t end = -1) {
        const int index = model.table().find(name);
        check(index >= 0 || !wanted, "the network has no '{}' to take a branch out by", name);
        for (const Tensor buffer : {model.parameters(), model.working()}) {
            if (!buffer || index < 0) continue;
            const Tensor where = model.table().view(buffer, index);
            auto* const data = static_cast<std::byte*>(where.data);
            saved_.push_back({where, {data, data + where.bytes()}});
            const int64_t columns = where.shape[where.shape.rank() - 1], last = end < 0 ? columns : end;
            for (int64_t row = 0; row < where.elements() / columns; ++row)
                std::memset(data + (row * columns + begin) * size_of(where.dtype), 0,
                            static_cast<size_t>((last - begin) * size_of(where.dtype)));
        }
    };
    for (const Intervention& one : interventions) {
        if (one.of_heads()) continue;
        for (int64_t layer = 0; layer < config.model.layers; ++layer) {
            if (one.layer >= 0 && one.layer != layer) continue;
            for (const char* projection : {"attn.out", "mlp.down"}) {
                const bool attention = projection[0] == 'a';
                if (!attention && config.model.hidden() == 0) continue;
                if (one.kind == (attention ? InterventionKind::kZeroMlp : InterventionKind::kZeroAttention)) continue;
                for (const std::string part : {"weight", "bias"})
                    zero(fmt::format("blocks.{}.{}.{}", layer, projection, part), part == "weight");
            }
        }
    }
    if (config.attention.differential != "none") return;  // a score map has no columns of its own
    const int64_t HS = config.model.head_channels();
    for (int64_t layer = 0; layer < config.model.layers; ++layer)
        for (int64_t head = 0; head < config.model.heads; ++head) {
            const Intervention* one = made_on(interventions, layer, head);
            if (one && one->kind == InterventionKind::kZero)
                zero(fmt::format("blocks.{}.attn.out.weight", layer), true, head * HS, (head + 1) * HS);
        }
}

// In reverse: two interventions may name one branch, and the first has saved what was there.
WithoutBranches::~WithoutBranches() {
    for (auto saved = saved_.rbegin(); saved != saved_.rend(); ++saved)
        std::memcpy(saved->where.data, saved->bytes.data(), saved->bytes.size());
}

}  // namespace plimsoll
