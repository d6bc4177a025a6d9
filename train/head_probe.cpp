#include "train/head_probe.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "kernels/matmul.h"

namespace plimsoll {
namespace {

constexpr double kSinkThreshold = 0.3;                          // epsilon of the sink rate; Gu et al., arXiv:2410.10781
constexpr double kDormantMass = 0.5, kDeeplyDormantMass = 0.9;  // M7
constexpr int64_t kFirstLogitQuery = 8;  // M6 on text: queries from here on, when there are keys to compare with

// A gate's value for one element of core attention's output.
double gate_at(const OutputGate& gate, int64_t token, int64_t head, int64_t channel) {
    const Shape& shape = gate.z.shape;
    const int heads = shape.rank() - 2, channels = heads + 1;
    int64_t at = heads ? token : 0;
    at = at * shape[heads] + (shape[heads] > 1 ? head : 0);
    at = at * shape[channels] + (shape[channels] > 1 ? channel : 0);
    return gate_value(gate.spec.function, element(gate.z, at));
}
// How many values it has for a head.
int64_t per_head(const OutputGate& gate) {
    return gate.z.shape[gate.z.shape.rank() - 1];
}
bool multiplies(const OutputGate& gate) {
    return gate && gate.spec.combination == GateCombination::kMultiply;
}

// The key head of a head of the model.
int64_t key_of(const NetworkConfig& network, int64_t head) {
    return head / (network.model.heads / network.model.key_heads());
}

}  // namespace

double head_gate(const AttentionTensors& core, int64_t token, int64_t head) {
    return core.gate ? 1 / (1 + std::exp(-element(core.gate, token * core.gate.row_stride + head))) : 1;
}

HeadWeights::HeadWeights(const AttentionTensors& core, const AttentionSpec& spec, int64_t head, int64_t begin,
                         int64_t n, Tensor column_scores)
    : n_(n), prefix_(spec.prefix), weights_(static_cast<size_t>(n * n)), scores_(static_cast<size_t>(n * n)) {
    const int64_t NH = core.q.shape[1], group = NH / core.k.shape[1];
    const Tensor learned = core.sink_logit ? core.sink_logit : core.score_bias;
    std::vector<double> key_bias;
    for (int64_t j = 0; core.key_bias && j < n; ++j)
        key_bias.push_back(element(core.key_bias, (begin + j) * NH + head));
    attention_weights(weights_, scores_, head_rows(core.q, head, begin, n), head_rows(core.k, head / group, begin, n),
                      learned ? element(learned, head) : 0, head, NH, spec, key_bias);
    if (column_scores)
        for (int64_t i = 0; i < n; ++i) take_column(i, element(column_scores, (begin + i) * NH + head));
}

HeadWeights::HeadWeights(const Block& block, int64_t head, int64_t begin, int64_t n)
    : HeadWeights(block.core_tensors(), block.spec(), head, begin, n, block.column_scores()) {}

double HeadWeights::row_sum(int64_t i) const {
    double sum = 0;
    for (int64_t j = 0; j < keys_end(i); ++j) sum += weight(i, j);
    return sum;
}

// Row i with a virtual column of logit e beside its keys: p_j = exp(s_j) / (exp(e) + sum exp(s)), and was without e.
void HeadWeights::take_column(int64_t i, double e) {
    double sum = 0;  // of exp(s - e)
    for (int64_t j = 0; j < n_; ++j) sum += std::exp(score(i, j) - e);
    const double share = std::isinf(sum) ? 1 : sum / (1 + sum);
    for (int64_t j = 0; j < n_; ++j) weights_[static_cast<size_t>(i * n_ + j)] *= share;
}

LayerProbe::LayerProbe(const Block& block, Transformer& model, int64_t layer, const std::vector<bool>& is_trigger,
                       const ModelInput& input, const Exec& exec)
    : block_(block), network_(model.config()), is_trigger_(is_trigger), input_(input) {
    const int64_t NH = network_.model.heads, C = network_.model.channels;
    const int64_t VS = network_.attention.core_sizes(network_.model).VS;
    const int64_t maps = network_.attention.differential == "none" ? 1 : 2;  // that the projection reads as one
    const int64_t N = static_cast<int64_t>(input.tokens.size());
    const AttentionTensors core = block.core_tensors();
    const Tensor out =
        model.table().view(model.parameters(), model.table().find(fmt::format("blocks.{}.attn.out.weight", layer)));
    std::vector<float> values(static_cast<size_t>(N * VS)), weight(static_cast<size_t>(C * VS)),
        product(static_cast<size_t>(N * C));
    for (int64_t head = 0; head < NH; ++head) {
        const Tensor v = head_rows(core.v, key_of(network_, head), 0, N), y = head_rows(core.out, head, 0, N);
        for (int64_t t = 0; t < N; ++t)
            for (int64_t c = 0; c < VS; ++c)
                values[static_cast<size_t>(t * VS + c)] = static_cast<float>(element(v, t * v.row_stride + c));
        for (int64_t o = 0; o < C; ++o)
            for (int64_t c = 0; c < VS; ++c)
                weight[static_cast<size_t>(o * VS + c)] =
                    static_cast<float>(element(out, o * out.row_stride + head / maps * VS + c));
        const Tensor result(product.data(), DType::kF32, {N, C});
        matmul_forward(result, Tensor(values.data(), DType::kF32, {N, VS}), Tensor(weight.data(), DType::kF32, {C, VS}),
                       {}, exec);
        for (int64_t t = 0; t < N; ++t) wo_value_norm_.push_back(row_norm(result, t));
        const OutputGate gate = block.output_gate();
        for (int64_t t = 0; t < N; ++t) {
            double sum = 0;
            for (int64_t c = 0; c < VS; ++c) {
                double value = element(y, t * y.row_stride + c);
                if (gate && !gate.inside) {
                    const double g = gate_at(gate, t, head, c);
                    value = multiplies(gate) ? g * value : value + g;
                }
                sum += std::pow(value, 2);
            }
            output_norm_.push_back(std::sqrt(sum));
        }
    }
}

bool LayerProbe::counted(int64_t token) const {
    return is_trigger_.empty() || !is_trigger_[static_cast<size_t>(token)];
}

// What the head's weights are multiplied by for a query: the mean over its channels; 1 without a gate.
double LayerProbe::gate(int64_t token, int64_t head) const {
    const OutputGate gate = block_.output_gate();
    if (!multiplies(gate)) return 1;
    double sum = 0;
    for (int64_t c = 0; c < per_head(gate); ++c) sum += gate_at(gate, token, head, c);
    return sum / static_cast<double>(per_head(gate));
}

void LayerProbe::add_masses(NamedValues& out, const HeadWeights& weights, int64_t head, int64_t begin,
                            int64_t n) const {
    const int64_t k = network_.attention.placeholders, f = k;
    Mean raw, normalized, effective, placeholder_raw, placeholder_normalized, placeholder_effective, row_mass, entropy,
        dead, sink;
    for (int64_t i = 0; i < n; ++i) {
        double row = 0, placeholders = 0;
        int64_t visible = 0;
        const int64_t end = weights.keys_end(i);
        for (int64_t j = 0; j < end; ++j) {
            row += weights.weight(i, j);
            if (j < k) placeholders += weights.weight(i, j);
            visible += weights.visible(i, j);
        }
        const double share = weights.weight(i, std::min(f, i)) / (row + kRowEpsilon);
        if (i >= f && weights.visible(i, f)) sink.add(share);
        if (visible < 2 || i <= f) continue;
        dead.add(row < 1e-12);
        if (!counted(begin + i)) continue;
        const double g = gate(begin + i, head);
        raw.add(weights.weight(i, f)), normalized.add(share), effective.add(g * weights.weight(i, f));
        placeholder_raw.add(placeholders), placeholder_normalized.add(placeholders / (row + kRowEpsilon));
        placeholder_effective.add(g * placeholders);
        row_mass.add(row);
        double bits = 0;
        for (int64_t j = 0; j < end; ++j) {
            const double share_j = weights.weight(i, j) / (row + kRowEpsilon);
            if (share_j > 0) bits -= share_j * std::log(share_j);
        }
        entropy.add(bits / std::log(static_cast<double>(visible)));
    }
    const Mean& first = k ? placeholder_raw : raw;
    out.insert(out.end(), {{"sink_rate", 100.0 * (sink.value() > kSinkThreshold)},
                           {"first_mass_raw", raw.value()},
                           {"first_mass_normalized", normalized.value()},
                           {"first_mass_effective", effective.value()},
                           {"row_mass", row_mass.value()},
                           {"entropy", entropy.value()},
                           {"dead_rows", dead.value()},
                           {"dormant", static_cast<double>(first.value() > kDormantMass)},
                           {"dormant_0p9", static_cast<double>(first.value() > kDeeplyDormantMass)}});
    if (k)
        out.insert(out.end(), {{"placeholder_mass_raw", placeholder_raw.value()},
                               {"placeholder_mass_normalized", placeholder_normalized.value()},
                               {"placeholder_mass_effective", placeholder_effective.value()}});
}

void LayerProbe::add_values(NamedValues& out, int64_t head, int64_t begin, int64_t n) const {
    const int64_t N = static_cast<int64_t>(input_.tokens.size());
    const AttentionTensors core = block_.core_tensors();
    const int64_t key = key_of(network_, head);
    const Tensor q = head_rows(core.q, head, begin, n), k = head_rows(core.k, key, begin, n);
    const Tensor v = head_rows(core.v, key, begin, n);
    const auto pushed = [&](int64_t t) { return wo_value_norm_[static_cast<size_t>(head * N + begin + t)]; };
    Mean pushed_rest, value_rest, key_rest, cosine, output, layer_output;
    for (int64_t t = 1; t < n; ++t)
        pushed_rest.add(pushed(t)), value_rest.add(row_norm(v, t)), key_rest.add(row_norm(k, t));
    const double key_norm = row_norm(k, 0);
    for (int64_t i = 1; i < n; ++i)
        if (counted(begin + i)) cosine.add(row_dot(q, i, k, 0) / (row_norm(q, i) * key_norm + kRowEpsilon));
    for (int64_t t = 0; t < n; ++t) {
        output.add(output_norm_[static_cast<size_t>(head * N + begin + t)]);
        for (int64_t h = 0; h < network_.model.heads; ++h)
            layer_output.add(output_norm_[static_cast<size_t>(h * N + begin + t)]);
    }
    out.insert(out.end(), {{"drain_ratio", pushed(0) / pushed_rest.value()},
                           {"wo_value_norm", pushed(0)},
                           {"value_ratio", row_norm(v, 0) / value_rest.value()},
                           {"key_ratio", key_norm / key_rest.value()},
                           {"query_key_cosine", cosine.value()},
                           {"head_output_ratio", output.value() / layer_output.value()}});
}

void LayerProbe::add_logits(NamedValues& out, const HeadWeights& weights, int64_t begin, int64_t n) const {
    std::map<int32_t, Mean> by_type;  // Bigram-Backcopy: per token type first, as the paper does
    Mean all;
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < n; ++i) {
        Mean others;
        for (int64_t j = 0; j < weights.keys_end(i); ++j) {
            if (!weights.visible(i, j)) continue;
            largest = std::max(largest, weights.score(i, j));
            if (j >= 1 && j != i) others.add(weights.score(i, j));
        }
        if (!others.count || !weights.visible(i, 0) || !counted(begin + i)) continue;
        const double delta = weights.score(i, 0) - others.value();
        if (!is_trigger_.empty())
            by_type[input_.tokens[static_cast<size_t>(begin + i)]].add(delta);
        else if (i >= std::min(kFirstLogitQuery, n - 1))
            all.add(delta);
    }
    Mean delta, square;
    for (const auto& [type, mean] : by_type) delta.add(mean.value()), square.add(mean.value() * mean.value());
    const double mean = by_type.empty() ? all.value() : delta.value();
    out.insert(out.end(), {{"sink_logit_delta", mean}, {"logit_max", largest}});
    if (!by_type.empty())
        out.push_back({"sink_logit_delta_std", std::sqrt(std::max(0.0, square.value() - mean * mean))});
}

void LayerProbe::add_gates(NamedValues& out, int64_t head, int64_t begin, int64_t n) const {
    const OutputGate gate = block_.output_gate();
    if (!multiplies(gate)) return;
    Mean mean, closed;
    for (int64_t t = 1; t < n; ++t) {
        if (!counted(begin + t)) continue;
        for (int64_t c = 0; c < per_head(gate); ++c) {
            const double g = gate_at(gate, begin + t, head, c);
            mean.add(g), closed.add(g < 0.1);
        }
    }
    out.insert(out.end(), {{"gate_mean", mean.value()}, {"gate_below_0p1", closed.value()}});
}

NamedValues LayerProbe::measure_head(int64_t head, int64_t begin, int64_t n) const {
    NamedValues out;
    const HeadWeights weights(block_, head, begin, n);
    add_masses(out, weights, head, begin, n);
    add_values(out, head, begin, n);
    add_logits(out, weights, begin, n);
    add_gates(out, head, begin, n);
    return out;
}

std::vector<HeadMeasurement> LayerProbe::measure(const Exec& exec) const {
    const int64_t NH = network_.model.heads, documents = static_cast<int64_t>(input_.cu_seqlens.size()) - 1;
    std::vector<HeadMeasurement> out(static_cast<size_t>(documents * NH));
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
    for (int64_t unit = 0; unit < documents * NH; ++unit) {
        const int64_t d = unit / NH, begin = input_.cu_seqlens[static_cast<size_t>(d)];
        const int64_t n = input_.cu_seqlens[static_cast<size_t>(d) + 1] - begin;
        out[static_cast<size_t>(unit)].head = unit % NH;
        if (n >= network_.attention.placeholders + 2)
            out[static_cast<size_t>(unit)].values = measure_head(unit % NH, begin, n);
    }
    return out;
}

}  // namespace plimsoll
