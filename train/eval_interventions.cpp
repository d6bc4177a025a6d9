// Suite interventions: what the loss becomes, and the sinks, when parts of a trained model are taken out or changed.
#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "train/eval.h"
#include "train/evaluate.h"
#include "train/interventions.h"
#include "train/probes.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// The probes run once for each intervention: fewer and shorter documents than in training.
constexpr int64_t kProbedRows = 4, kProbedTokens = 256;
constexpr size_t kHeadsInTable = 16;

// Metrics of the probes that interventions are about.
constexpr const char* kHeadMetrics[] = {"sink_rate", "first_mass_raw", "sink_logit_delta", "wo_value_norm"};
constexpr const char* kLayerMetrics[] = {"residual_norm", "residual_peak"};

// A model under interventions: its loss, and what its sinks become.
struct Outcome {
    Interventions interventions;
    Evaluation evaluation;
    json sinks;  // null for single heads of the battery
};

class Experiment {
  public:
    explicit Experiment(const EvalContext& context)
        : context_(context),
          config_(context.model.config()),
          rows_(context.data().rows()),
          model_(context.model.transformer(config_.tokens_per_micro_batch(), context.precision, context.exec)),
          probed_(*model_, config_.tokens_per_micro_batch(), context.exec),
          probes_(probe_section(config_.probes), context.network(), rows_, config_.train.micro_batch) {}

    Outcome run(const Interventions& interventions, bool with_sinks) {
        const WithoutBranches without(*model_, interventions);
        LocalCoreAttention local;
        IntervenedAttention core(local, interventions);
        Outcome outcome{interventions,
                        evaluate(*model_, core, rows_, context_.samples(), config_.train.micro_batch,
                                 config_.scored_tokens(), context_.exec),
                        {}};
        if (!with_sinks) return outcome;
        const json measured = probes_.measure(probed_, core, context_.exec);
        for (const char* name : kHeadMetrics) outcome.sinks[name] = measured["per_head"][name];
        for (const char* name : kLayerMetrics) outcome.sinks[name] = measured["per_layer"][name];
        return outcome;
    }

  private:
    static ProbeSection probe_section(ProbeSection section) {
        section.samples = std::min(section.samples, kProbedRows);
        section.tokens = section.tokens ? std::min(section.tokens, kProbedTokens) : kProbedTokens;
        return section;
    }

    const EvalContext& context_;
    const RunConfig& config_;
    Loader rows_;
    std::unique_ptr<Transformer> model_;
    ProbedModel probed_;
    Probes probes_;
};

json optional(const std::optional<double>& value) {
    return value ? json(*value) : json();
}

// Largest number in nested lists; null without any.
json largest(const json& values) {
    if (values.is_number()) return values;
    json most;
    for (const json& value : values) {
        const json inner = largest(value);
        if (inner.is_number() && (most.is_null() || inner > most)) most = inner;
    }
    return most;
}

json as_json(const Outcome& outcome, double loss_before) {
    const Evaluation& evaluation = outcome.evaluation;
    json result = {{"interventions", to_string(outcome.interventions)},
                   {"loss", evaluation.loss},
                   {"loss_added", evaluation.loss - loss_before},
                   {"bigram_risk", optional(evaluation.bigram_risk)},
                   {"copy_risk", optional(evaluation.copy_risk)}};
    if (!outcome.sinks.is_null()) result["sinks"] = outcome.sinks;
    return result;
}

bool is_single_head(const Interventions& interventions) {
    return interventions.size() == 1 && interventions[0].kind == InterventionKind::kZero &&
           interventions[0].layer >= 0 && interventions[0].head >= 0;
}

json table_of(const json& before, const json& results, bool risks, bool shorten) {
    std::vector<const json*> rows{&before}, heads;
    for (const json& result : results) (shorten && !result.contains("sinks") ? heads : rows).push_back(&result);
    std::stable_sort(heads.begin(), heads.end(), [](const json* a, const json* b) {
        return std::abs((*a)["loss_added"].get<double>()) > std::abs((*b)["loss_added"].get<double>());
    });
    heads.resize(std::min(heads.size(), kHeadsInTable));
    rows.insert(rows.end(), heads.begin(), heads.end());
    json columns = {"intervention", "loss (nats)", "added"}, lines = json::array();
    if (risks) columns.insert(columns.end(), {"bigram risk", "copy risk"});
    columns.insert(columns.end(), {"largest first mass", "largest logit delta", "largest residual peak"});
    for (const json* row : rows) {
        json line = {(*row)["interventions"], (*row)["loss"], (*row)["loss_added"]};
        if (risks) line.insert(line.end(), {(*row)["bigram_risk"], (*row)["copy_risk"]});
        const json sinks = row->value("sinks", json::object());
        for (const char* name : {"first_mass_raw", "sink_logit_delta"})
            line.push_back(largest(sinks.value(name, json())));
        json peaks = sinks.value("residual_peak", json());
        if (!peaks.empty()) peaks.erase(0);  // of the embedding
        line.push_back(largest(peaks));
        lines.push_back(std::move(line));
    }
    return {{"columns", columns}, {"rows", lines}};
}

// Of the battery: the measure against the layer for each kind, against gamma for the first token, and a map of heads.
void add_figures(json& out, const std::vector<Outcome>& outcomes, const Outcome& before, const ModelConfig& model) {
    const auto add_curves = [&](const std::string& measure, auto&& value) {
        std::vector<json> by_kind;
        const auto curve = [&](const std::string& name, const std::string& group) -> json& {
            for (json& one : by_kind)
                if (one["name"] == name) return one;
            return by_kind.emplace_back(
                json{{"name", name}, {"group", group}, {"x", json::array()}, {"y", json::array()}});
        };
        const auto add = [&](json& one, double x, double y) { one["x"].push_back(x), one["y"].push_back(y); };
        for (const Outcome& outcome : outcomes) {
            const Intervention& one = outcome.interventions[0];
            if (is_single_head(outcome.interventions)) continue;
            if (one.layer >= 0) {
                const std::string kind = to_string({{.kind = one.kind}});
                add(curve(kind.substr(kind.find('=') + 1), measure + " by layer"), static_cast<double>(one.layer),
                    value(outcome));
            } else {
                json& scaled = curve("first token, all heads", measure + " by gamma");
                if (one.value > 1 && (scaled["x"].empty() || scaled["x"].back() < 1)) add(scaled, 1, value(before));
                add(scaled, one.value, value(outcome));
            }
        }
        for (json& one : by_kind) out["curves"].push_back(std::move(one));
    };
    out["curves"] = json::array();
    add_curves("loss", [](const Outcome& outcome) { return outcome.evaluation.loss; });
    if (before.evaluation.copy_risk)
        add_curves("copy risk", [](const Outcome& outcome) { return *outcome.evaluation.copy_risk; });
    if (before.evaluation.bigram_risk)
        add_curves("bigram risk", [](const Outcome& outcome) { return *outcome.evaluation.bigram_risk; });
    if (model.heads == 1) return;
    json map = json::array();
    for (int64_t layer = 0; layer < model.layers; ++layer) map.push_back(json::array());
    for (const Outcome& outcome : outcomes)
        if (is_single_head(outcome.interventions))
            map[static_cast<size_t>(outcome.interventions[0].layer)].push_back(outcome.evaluation.loss -
                                                                               before.evaluation.loss);
    out["maps"] = {{{"name", "loss added without the head (nats)"}, {"values", map}}};
}

}  // namespace

json eval_interventions(const EvalContext& context) {
    const ModelConfig& model = context.network().model;
    const bool battery = context.options.interventions.empty();
    std::vector<Interventions> wanted;
    for (const std::string& text : context.options.interventions) wanted.push_back(parse_interventions(text, model));
    if (battery) wanted = intervention_battery(model);
    Experiment experiment(context);
    const Outcome before = experiment.run({}, true);
    std::vector<Outcome> outcomes;
    json results = json::array();
    for (const Interventions& interventions : wanted) {
        outcomes.push_back(experiment.run(interventions, !battery || !is_single_head(interventions)));
        results.push_back(as_json(outcomes.back(), before.evaluation.loss));
    }
    json nothing = as_json(before, before.evaluation.loss);
    nothing["interventions"] = "none";
    json result = {
        {"before", nothing},
        {"results", results},
        {"scored", before.evaluation.scored},
        {"table", table_of(nothing, results, before.evaluation.bigram_risk.has_value(), battery)},
        {"notes",
         {fmt::format("masses, deltas and peaks: the largest over heads or blocks, on the first {} tokens of {} "
                      "rows; masses are what the scores give, before an intervention on the head itself",
                      kProbedTokens, kProbedRows)}}};
    const auto heads = static_cast<size_t>(model.layers * model.heads);
    if (battery && model.heads > 1 && heads > kHeadsInTable)
        result["notes"].push_back(fmt::format("heads: the {} of {} whose loss changes most", kHeadsInTable, heads));
    if (battery) add_figures(result, outcomes, before, model);
    return result;
}

}  // namespace plimsoll
