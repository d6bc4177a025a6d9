// Suites ppl and sinks: what training measures, on a saved run.
#include <cmath>
#include <numbers>
#include <numeric>

#include "train/eval.h"
#include "train/evaluate.h"
#include "train/loss_bins.h"
#include "train/probes.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// Mean over all finite numbers in nested lists; null without any.
json mean_of(const json& values) {
    double sum = 0;
    int64_t count = 0;
    const std::function<void(const json&)> walk = [&](const json& value) {
        if (value.is_number()) sum += value.get<double>(), ++count;
        if (value.is_array())
            for (const json& inner : value) walk(inner);
    };
    walk(values);
    return count ? json(sum / static_cast<double>(count)) : json();
}

json largest_of(const json& values) {
    json largest;
    for (const json& value : values)
        if (value.is_number() && (largest.is_null() || value > largest)) largest = value;
    return largest;
}

}  // namespace

json eval_ppl(const EvalContext& context) {
    const RunConfig& config = context.model.config();
    const EvalData data = context.data();
    const Loader rows = data.rows();
    const auto model = context.model.transformer(config.tokens_per_micro_batch(), context.precision, context.exec);
    LocalCoreAttention core;
    LossBins bins;
    double bytes = 0, nll_sum = 0;
    const int64_t k = config.attention.placeholders;
    const Evaluation result =
        evaluate(*model, core, rows, context.samples(), config.train.micro_batch, config.scored_tokens(), context.exec,
                 [&](const Batch& batch, Transformer& computed) {
                     const auto n = static_cast<int64_t>(batch.tokens.size());
                     dispatch_float(computed.nll(n).dtype, [&]<class R>() {
                         const R* nll = computed.nll(n).ptr<R>();
                         for (size_t i = 0; i < batch.tokens.size(); ++i) {
                             if (batch.targets[i] < 0) continue;
                             const auto loss = static_cast<double>(static_cast<Accumulator<R>>(nll[i]));
                             bins.add(batch.positions[i] - k, loss);
                             bytes += static_cast<double>(data.bytes_of(batch.targets[i]));
                             nll_sum += loss;
                         }
                     });
                 });
    const json bits = data.has_bytes() && bytes > 0 ? json(nll_sum / std::numbers::ln2 / bytes) : json();
    return {{"loss", result.loss},
            {"ppl", std::exp(result.loss)},
            {"bits_per_byte", bits},
            {"scored", result.scored},
            {"bytes", bytes},
            {"bigram_risk", result.bigram_risk ? json(*result.bigram_risk) : json()},
            {"copy_risk", result.copy_risk ? json(*result.copy_risk) : json()},
            {"curves", {bins.curve("loss by position")}},
            {"table",
             {{"columns", {"loss (nats)", "perplexity", "bits per byte", "scored tokens"}},
              {"rows", {{result.loss, std::exp(result.loss), bits, result.scored}}}}}};
}

json eval_sinks(const EvalContext& context) {
    const RunConfig& config = context.model.config();
    const Loader rows = context.data().rows();
    const auto model = context.model.transformer(config.tokens_per_micro_batch(), context.precision, context.exec);
    ProbedModel probed(*model, config.tokens_per_micro_batch(), context.exec);
    LocalCoreAttention core;
    const Probes probes(config.probes, context.network(), rows, config.train.micro_batch);
    json result = probes.measure(probed, core, context.exec);
    const json &heads = result["per_head"], &layers = result["per_layer"];
    json columns = json::array(), row = json::array();
    for (const char* name : {"sink_rate", "first_mass_raw", "first_mass_effective", "placeholder_mass_raw",
                             "placeholder_mass_effective", "row_mass", "drain_ratio", "dormant"})
        if (heads.contains(name)) columns.push_back(name), row.push_back(mean_of(heads[name]));
    for (const char* name : {"residual_peak_ratio", "massive_ratio"})
        columns.push_back(std::string("largest ") + name), row.push_back(largest_of(layers[name]));
    result["table"] = {{"columns", columns}, {"rows", {row}}};
    result["notes"] = {"means over layers and heads; definitions: train/README.md"};
    return result;
}

}  // namespace plimsoll
