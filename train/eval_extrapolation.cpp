// Suite extrapolation: M11, losses at 1 to 16 times the context of training.
#include <cmath>

#include <nlohmann/json.hpp>

#include "train/eval.h"
#include "train/loss_bins.h"
#include "train/rope_scaling.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = 256;  // tokens forwarded together

// A way to read positions beyond those of training.
struct Method {
    std::string name;
    NetworkConfig network;
    CacheOptions cache;
};

bool has_log_n_bias(const NetworkConfig& network) {
    if (network.attention.score_bias != "log_n") return false;
    for (int64_t layer = 0; layer < network.model.layers; ++layer)
        if (takes_bias(network.attention.spec(layer, network.model).weighting)) return true;
    return false;
}

std::vector<Method> methods(const NetworkConfig& network, int64_t length, int64_t factor) {
    const CacheOptions cache{.tokens = length + network.attention.placeholders};
    std::vector<Method> all{{"direct", network, cache}};
    if (factor == 1) return all;
    const ModelConfig& model = network.model;
    if (model.position == "rope")
        for (const RopeScaling& scaling :
             rope_scalings(model.rope_theta, model.head_channels(), model.context, static_cast<double>(factor))) {
            all.push_back({scaling.name, network, cache});
            all.back().cache.frequencies = scaling.frequencies;
            all.back().cache.score_factor = scaling.score_factor;
        }
    if (has_log_n_bias(network)) {
        const size_t kept = all.size();
        for (size_t m = 0; m < kept; ++m) {
            Method rescaled = all[m];
            rescaled.name += ", b = -log n";
            rescaled.network.model.context = length;
            all.push_back(std::move(rescaled));
        }
    }
    return all;
}

}  // namespace

json eval_extrapolation(const EvalContext& context) {
    const NetworkConfig& network = context.network();
    const int64_t T = network.model.context, k = network.attention.placeholders;
    if (network.model.position == "learned")
        return {{"refused", fmt::format("model.position = \"learned\": there are {} positions and no more", T)}};
    if (network.attention.prefix > 1)
        return {{"refused", fmt::format("attention.prefix = {}: targets within the prefix are known to the model, and "
                                        "suite ppl leaves them out",
                                        network.attention.prefix)}};
    std::vector<int32_t> placeholders;
    for (int64_t p = 0; p < k; ++p) placeholders.push_back(static_cast<int32_t>(network.vocab + p));
    const EvalData data = context.data();
    json table_rows = json::array(), curves = table_rows, results = table_rows, notes = table_rows;
    for (const int64_t factor : {1, 2, 4, 8, 16}) {
        const int64_t length = factor * T - k;  // real tokens
        const Loader rows = data.rows_of(length);
        const int64_t wanted = std::max<int64_t>(1, context.options.length_tokens / length),
                      available = rows.samples_available();
        const int64_t whole = available < 0 ? wanted : std::min(wanted, available);
        std::vector<Batch> batches;
        for (int64_t row = 0; row < whole; ++row) {
            Batch batch = rows.load(row, 1);
            if (batch.targets.back() >= 0) batches.push_back(std::move(batch));  // all of it is there
        }
        if (batches.empty()) {
            notes.push_back(fmt::format("{}x: the data has no row of {} tokens", factor, length));
            continue;
        }
        for (const Method& method : methods(network, factor * T, factor)) {
            Decoder decoder(method.network, context.weights.weights(),
                            {.cache = method.cache, .chunk = std::min(kChunk, length)}, context.exec);
            LossBins bins;
            double sum = 0, last_sum = 0;
            int64_t last_count = 0;
            std::vector<double> nll(static_cast<size_t>(length));
            for (const Batch& batch : batches) {
                decoder.truncate(0);
                if (k > 0) decoder.append(placeholders);
                decoder.score(batch.tokens, batch.targets, nll);
                for (int64_t i = 0; i < length; ++i) {
                    const double loss = nll[static_cast<size_t>(i)];
                    bins.add(i, loss), sum += loss;
                    if (i >= length - T / 2) last_sum += loss, ++last_count;
                }
            }
            const double loss = sum / static_cast<double>(length) / static_cast<double>(batches.size()),
                         last = last_sum / static_cast<double>(last_count);
            results.push_back({{"factor", factor},
                               {"tokens", length},
                               {"rows", batches.size()},
                               {"method", method.name},
                               {"loss", loss},
                               {"loss_last_half_context", last}});
            table_rows.push_back({fmt::format("{}x", factor), method.name, batches.size(), loss, last});
            curves.push_back(bins.curve(fmt::format("{}x {}", factor, method.name)));
        }
    }
    notes.push_back(
        fmt::format("last: the last {} positions of a row; rows are cut from the concatenated split, "
                    "which may end documents within",
                    T / 2));
    return {{"results", results},
            {"curves", curves},
            {"notes", notes},
            {"table", {{"columns", {"length", "positions", "rows", "loss (nats)", "last"}}, {"rows", table_rows}}}};
}

}  // namespace plimsoll
