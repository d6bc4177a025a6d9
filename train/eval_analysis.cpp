// Suite analysis: where heads of a trained model look, which of them are dormant, on one or two texts, and which
// weights the loss depends on.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <nlohmann/json.hpp>

#include "train/eval.h"
#include "train/head_analysis.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr size_t kSinkPositions = 10;  // k = 0 .. 9 of Sink_k
constexpr std::array<double, 3> kSinkThresholds{0.2, 0.3, 0.4};
constexpr std::array<double, 2> kDormantMasses{0.5, 0.9};
constexpr double kSmallOutput = 0.5;  // of the layer's mean norm: an inactive head by its output, arXiv:2504.03889
constexpr size_t kNamedTokens = 8;

// [layer][head] of f(layer, head); NaN as null.
template <class F>
json by_head(const ModelConfig& model, F&& f) {
    json layers = json::array();
    for (int64_t layer = 0; layer < model.layers; ++layer) {
        json heads = json::array();
        for (int64_t head = 0; head < model.heads; ++head) {
            const double value = f(layer, head);
            heads.push_back(std::isfinite(value) ? json(value) : json());
        }
        layers.push_back(std::move(heads));
    }
    return layers;
}

template <class F>
void each_number(const json& values, F&& f) {
    if (values.is_number()) f(values.get<double>());
    if (values.is_array())
        for (const json& inner : values) each_number(inner, f);
}

// Of one head, over documents.
struct HeadColumns {
    Mean for_half, trigger_mass, largest_share;
    std::map<int64_t, int64_t> largest_at;  // position -> documents

    double position() const {
        const auto most = std::max_element(largest_at.begin(), largest_at.end(),
                                           [](const auto& a, const auto& b) { return a.second < b.second; });
        return most == largest_at.end() ? std::nan("") : static_cast<double>(most->first);
    }
};

// What is summed by position and by token over heads and documents.
struct ColumnSums {
    std::array<std::array<Mean, kSinkPositions>, kSinkThresholds.size()> sinks;
    std::vector<std::vector<Mean>> received;  // [layer][position]
    std::map<int32_t, Mean> share_of_token;
};

class Analysis {
  public:
    Analysis(const EvalContext& context, const EvalData& data)
        : context_(context),
          model_(context.network().model),
          rows_(data.rows()),
          groups_(probe_documents(context.model.config().probes, rows_, rows_at_once())),
          transformer_(context.model.transformer(context.model.config().tokens_per_micro_batch(), context.precision,
                                                 context.exec)) {}

    // Metrics of the probes, per head and per layer.
    json probes() {
        ProbedModel probed(*transformer_, context_.model.config().tokens_per_micro_batch(), context_.exec);
        return Probes(context_.model.config().probes, context_.network(), rows_, rows_at_once())
            .measure(probed, core_, context_.exec);
    }

    void columns(json& per_head, ColumnSums& sums) {
        std::vector<HeadColumns> heads(static_cast<size_t>(model_.layers * model_.heads));
        sums.received.resize(static_cast<size_t>(model_.layers));
        each_head(groups_, [&](const ProbeBatch& group, int64_t layer, const auto& weights_of) {
            add_columns(group, layer, weights_of, heads, sums);
        });
        const auto of = [&](int64_t layer, int64_t head) -> const HeadColumns& {
            return heads[static_cast<size_t>(layer * model_.heads + head)];
        };
        const auto put = [&](const char* name, auto&& value) {
            per_head[name] = by_head(model_, [&](int64_t l, int64_t h) { return value(of(l, h)); });
        };
        put("tokens_for_half", [](const HeadColumns& head) { return head.for_half.value(); });
        put("largest_column", [](const HeadColumns& head) { return head.largest_share.value(); });
        put("largest_column_at", [](const HeadColumns& head) { return head.position(); });
        if (!groups_.empty() && !groups_[0].triggers.empty())
            put("trigger_first_mass", [](const HeadColumns& head) { return head.trigger_mass.value(); });
    }

    void attributions(json& per_head) {
        AttributedAttention core(core_, model_.layers, model_.heads);
        int64_t scored = 0;
        for (const ProbeBatch& group : groups_) {
            transformer_->forward(core, group.input(), Write::kOverwrite, context_.exec);
            transformer_->backward(
                core, group.input(), Write::kOverwrite, [](int64_t) {}, context_.exec);
            scored += std::count_if(group.targets.begin(), group.targets.end(), [](int32_t id) { return id >= 0; });
        }
        const auto put = [&](const char* name, auto&& value) {
            per_head[name] = by_head(model_, [&](int64_t l, int64_t h) { return value(core.of(l, h)); });
        };
        const auto targets = static_cast<double>(scored);
        put("attribution", [&](const HeadAttribution& head) { return head.absolute / targets; });
        put("attribution_first_share", [](const HeadAttribution& head) { return head.first / head.absolute; });
        put("removal_estimate", [&](const HeadAttribution& head) { return -head.signed_sum / targets; });
    }

    // Also the mean losses in both copies.
    json repeats(json& per_head) {
        const RepeatedDocuments repeated =
            repeated_documents(groups_, context_.network(), static_cast<uint64_t>(context_.model.config().run.seed));
        if (repeated.groups.empty()) return {};
        const int64_t NH = model_.heads, begin = repeated.begin, n = repeated.n;
        std::array<std::vector<Mean>, 3> means;
        for (auto& mean : means) mean.resize(static_cast<size_t>(model_.layers * NH));
        Mean first, second;
        each_head(repeated.groups, [&](const ProbeBatch& group, int64_t layer, const auto& weights_of) {
            const int64_t units = group.documents() * NH;
            std::vector<RepeatScores> scores(static_cast<size_t>(units));
#pragma omp parallel for num_threads(context_.exec.threads) schedule(dynamic)
            for (int64_t unit = 0; unit < units; ++unit)
                scores[static_cast<size_t>(unit)] = repeat_scores(weights_of(unit / NH, unit % NH), begin, n);
            for (int64_t unit = 0; unit < units; ++unit) {
                const RepeatScores& score = scores[static_cast<size_t>(unit)];
                const auto at = static_cast<size_t>(layer * NH + unit % NH);
                means[0][at].add(score.induction), means[1][at].add(score.echo), means[2][at].add(score.previous);
            }
            if (layer > 0) return;
            const Tensor nll = transformer_->nll(static_cast<int64_t>(group.tokens.size()));
            for (const int32_t document : std::span(group.cu_seqlens).first(group.cu_seqlens.size() - 1))
                for (int64_t t = 0; t + 1 < n; ++t) {
                    first.add(element(nll, document + begin + t));
                    second.add(element(nll, document + begin + n + t));
                }
        });
        size_t which = 0;
        for (const char* name : {"induction", "echo", "previous"}) {
            per_head[name] = by_head(
                model_, [&](int64_t l, int64_t h) { return means[which][static_cast<size_t>(l * NH + h)].value(); });
            ++which;
        }
        return {{"tokens", n}, {"loss_first", first.value()}, {"loss_second", second.value()}};
    }

  private:
    int64_t rows_at_once() const {
        return context_.model.config().train.micro_batch;
    }

    // Forwards groups, and calls f(group, layer, weights_of(document, head)) for each layer.
    template <class F>
    void each_head(const std::vector<ProbeBatch>& groups, F&& f) {
        for (const ProbeBatch& group : groups) {
            const ModelInput input = group.input();
            transformer_->evaluate(core_, input, context_.exec);
            for (int64_t layer = 0; layer < model_.layers; ++layer) {
                const Block block = transformer_->block(core_, input, layer, context_.exec);
                f(group, layer, [&](int64_t document, int64_t head) {
                    const auto d = static_cast<size_t>(document);
                    return HeadWeights(block, head, group.cu_seqlens[d], group.cu_seqlens[d + 1] - group.cu_seqlens[d]);
                });
            }
        }
    }

    template <class W>
    void add_columns(const ProbeBatch& group, int64_t layer, const W& weights_of, std::vector<HeadColumns>& heads,
                     ColumnSums& sums) const {
        const int64_t NH = model_.heads, units = group.documents() * NH;
        struct Unit {
            ColumnMasses columns;
            Mean trigger_mass;
        };
        std::vector<Unit> found(static_cast<size_t>(units));
        const auto begin_of = [&](int64_t unit) { return group.cu_seqlens[static_cast<size_t>(unit / NH)]; };
#pragma omp parallel for num_threads(context_.exec.threads) schedule(dynamic)
        for (int64_t unit = 0; unit < units; ++unit) {
            const int64_t begin = begin_of(unit), n = group.cu_seqlens[static_cast<size_t>(unit / NH) + 1] - begin;
            const HeadWeights weights = weights_of(unit / NH, unit % NH);
            Unit& here = found[static_cast<size_t>(unit)];
            here.columns = column_masses(weights, n);
            for (int64_t i = 1; i < n && !group.triggers.empty(); ++i)
                if (group.triggers[static_cast<size_t>(begin + i)]) here.trigger_mass.add(weights.weight(i, 0));
        }
        auto& by_position = sums.received[static_cast<size_t>(layer)];
        for (int64_t unit = 0; unit < units; ++unit) {
            const auto& [columns, trigger_mass] = found[static_cast<size_t>(unit)];
            HeadColumns& head = heads[static_cast<size_t>(layer * NH + unit % NH)];
            if (trigger_mass.count) head.trigger_mass.add(trigger_mass.value());
            const double half = tokens_for_half(columns.received);
            if (std::isfinite(half)) head.for_half.add(half);
            // Among keys that at least half of the document may see: the last ones are seen by themselves alone.
            const auto& share = columns.share;
            const size_t first_half = (share.size() + 1) / 2;
            const auto most = std::max_element(share.begin(), share.begin() + static_cast<std::ptrdiff_t>(first_half));
            head.largest_share.add(*most), ++head.largest_at[most - share.begin()];
            by_position.resize(std::max(by_position.size(), share.size()));
            for (size_t j = 0; j < share.size(); ++j) {
                by_position[j].add(columns.received[j]);
                if (j < first_half)
                    sums.share_of_token[group.tokens[static_cast<size_t>(begin_of(unit)) + j]].add(share[j]);
                for (size_t e = 0; e < kSinkThresholds.size() && j < kSinkPositions; ++e)
                    sums.sinks[e][j].add(100.0 * (share[j] > kSinkThresholds[e]));
            }
        }
    }

    const EvalContext& context_;
    const ModelConfig& model_;
    Loader rows_;
    std::vector<ProbeBatch> groups_;
    std::unique_ptr<Transformer> transformer_;
    LocalCoreAttention core_;
};

json sink_rates(const ColumnSums& sums) {
    json rates = json::array();
    for (const auto& positions : sums.sinks) {
        json row = json::array();
        for (const Mean& mean : positions)
            if (mean.count) row.push_back(mean.value());
        rates.push_back(std::move(row));
    }
    return rates;
}

// Tokens by the mean share they receive wherever they stand, largest first.
json receivers(const ColumnSums& sums, const TrainedModel& model) {
    std::vector<std::pair<int32_t, Mean>> tokens(sums.share_of_token.begin(), sums.share_of_token.end());
    std::stable_sort(tokens.begin(), tokens.end(),
                     [](const auto& a, const auto& b) { return a.second.value() > b.second.value(); });
    tokens.resize(std::min(tokens.size(), kNamedTokens));
    json found = json::array();
    const auto heads = model.network().model.layers * model.network().model.heads;
    for (const auto& [id, mean] : tokens)
        found.push_back(
            {{"id", id}, {"token", model.label(id)}, {"share", mean.value()}, {"seen", mean.count / heads}});
    return found;
}

// How many heads are dormant by their mass on the first token, at each tau, and inactive by the norm of their output.
json head_states(const json& per_head) {
    json masses =
        per_head.contains("placeholder_mass_raw") ? per_head["placeholder_mass_raw"] : per_head["first_mass_raw"];
    std::array<int64_t, kDormantMasses.size()> dormant{};
    int64_t small = 0;
    each_number(masses, [&](double mass) {
        for (size_t t = 0; t < dormant.size(); ++t) dormant[t] += mass > kDormantMasses[t];
    });
    each_number(per_head["head_output_ratio"], [&](double ratio) { small += ratio < kSmallOutput; });
    return {{"mass", std::move(masses)},
            {"dormant_0p5", dormant[0]},
            {"dormant_0p9", dormant[1]},
            {"output_below_half", small}};
}

// What is measured on a text. `sums` for the figures of the first one.
json on_data(Analysis& analysis, ColumnSums& sums) {
    const json probes = analysis.probes();
    json per_head;
    for (const char* name : {"first_mass_raw", "placeholder_mass_raw", "row_mass", "head_output_ratio"})
        if (probes["per_head"].contains(name)) per_head[name] = probes["per_head"][name];
    analysis.columns(per_head, sums);
    analysis.attributions(per_head);
    json result = {{"states", head_states(per_head)},
                   {"sink_rates", sink_rates(sums)},
                   {"per_layer", json::object()},
                   {"per_head", std::move(per_head)}};
    for (const char* name : {"cosine_with_first", "kurtosis_first", "kurtosis_rest"})
        result["per_layer"][name] = probes["per_layer"][name];
    return result;
}

json largest(const json& values) {
    json most;
    each_number(values, [&](double value) {
        if (most.is_null() || value > most.get<double>()) most = value;
    });
    return most;
}

json table_row(const json& name, const json& found) {
    const json &states = found["states"], &heads = found["per_head"];
    json row = {name, states["dormant_0p5"], states["dormant_0p9"], states["output_below_half"]};
    size_t most = 0;
    const json& rates = found["sink_rates"][1];
    for (size_t k = 1; k < rates.size(); ++k)
        if (rates[k] > rates[most]) most = k;
    row.push_back(rates[0]);
    row.push_back(most);
    row.push_back(rates[most]);
    for (const char* metric : {"induction", "echo", "previous", "attribution_first_share"})
        row.push_back(largest(heads.value(metric, json())));
    return row;
}

json curve(const std::string& group, const std::string& name, const json& y, int64_t first_x = 0) {
    json x = json::array();
    for (size_t i = 0; i < y.size(); ++i) x.push_back(first_x + static_cast<int64_t>(i));
    return {{"group", group}, {"name", name}, {"x", x}, {"y", y}};
}

json curves_of(const json& found, const ColumnSums& sums) {
    json curves = json::array();
    for (size_t e = 0; e < kSinkThresholds.size(); ++e)
        curves.push_back(curve("sink rate by position (percent)", fmt::format("epsilon {}", kSinkThresholds[e]),
                               found["sink_rates"][e]));
    for (size_t layer = 0; layer < sums.received.size(); ++layer) {
        json y = json::array();
        for (const Mean& mean : sums.received[layer]) y.push_back(mean.value());
        curves.push_back(curve("weight received by position", fmt::format("layer {}", layer), y));
    }
    const json& layers = found["per_layer"];
    curves.push_back(curve("cosine with the first token by layer", "cosine", layers["cosine_with_first"]));
    curves.push_back(curve("excess kurtosis by layer", "first token", layers["kurtosis_first"]));
    curves.push_back(curve("excess kurtosis by layer", "other tokens", layers["kurtosis_rest"]));
    return curves;
}

// Per-head values of two texts, subtracted; null where either is.
json difference(const json& a, const json& b) {
    if (a.is_array()) {
        json out = json::array();
        for (size_t i = 0; i < a.size(); ++i) out.push_back(difference(a[i], b[i]));
        return out;
    }
    return a.is_number() && b.is_number() ? json(a.get<double>() - b.get<double>()) : json();
}

}  // namespace

json eval_analysis(const EvalContext& context) {
    const EvalData data = context.data();
    Analysis analysis(context, data);
    ColumnSums sums;
    json found = on_data(analysis, sums);
    const json repeats = analysis.repeats(found["per_head"]);
    const json named = receivers(sums, context.model);
    json maps = json::array(), rows = {table_row("evaluated", found)};
    const auto add_map = [&](const std::string& name, const json& values) {
        if (!values.is_null()) maps.push_back({{"name", name}, {"values", values}});
    };
    const json& heads = found["per_head"];
    add_map("mass on the first token", found["states"]["mass"]);
    if (heads.contains("trigger_first_mass")) add_map("the same, of triggers", heads["trigger_first_mass"]);
    json contrast;
    if (!context.options.contrast.empty()) {
        const EvalData other(context.model, context.options.contrast);
        Analysis second(context, other);
        ColumnSums other_sums;
        contrast = on_data(second, other_sums);
        rows.push_back(table_row("contrast", contrast));
        add_map("mass on the first token, contrast", contrast["states"]["mass"]);
        add_map("mass, evaluated - contrast", difference(found["states"]["mass"], contrast["states"]["mass"]));
    }
    for (const char* name : {"induction", "echo", "previous", "attribution_first_share", "removal_estimate"})
        if (heads.contains(name)) add_map(name, heads[name]);
    json notes = {fmt::format("of {} heads; largest: over heads; definitions: train/README.md",
                              context.network().model.layers * context.network().model.heads)};
    std::string tokens = "tokens that receive most, by the mean share where they stand in the first half:";
    for (const json& token : named)
        tokens += fmt::format(" '{}' {:.3f} ({} times);", token["token"].get<std::string>(),
                              token["share"].get<double>(), token["seen"].get<int64_t>());
    notes.push_back(tokens);
    if (repeats.is_null())
        notes.push_back("repeated sequences: the data has no two ids, or the context no room, for one");
    else
        notes.push_back(fmt::format("{} random ids, twice: loss {:.4f}, the second time {:.4f}",
                                    repeats["tokens"].get<int64_t>(), repeats["loss_first"].get<double>(),
                                    repeats["loss_second"].get<double>()));
    json result = {{"evaluated", found}, {"repeats", repeats}, {"receivers", named},
                   {"maps", maps},       {"notes", notes},     {"curves", curves_of(found, sums)}};
    if (!contrast.is_null()) result["contrast"] = contrast;
    result["table"] = {{"columns",
                        {"data", "dormant 0.5", "dormant 0.9", "output below half", "sink rate at 0",
                         "largest sink rate at", "largest sink rate", "largest induction", "largest echo",
                         "largest previous", "largest attribution on the first"}},
                       {"rows", rows}};
    return result;
}

}  // namespace plimsoll
