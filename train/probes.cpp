#include "train/probes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "train/evaluate.h"
#include "train/head_probe.h"
#include "train/stream_probe.h"

namespace plimsoll {
namespace {

using nlohmann::json;

// Means of named values over documents, as nested lists [layer][head] or [layer].
class Means {
  public:
    Means(int64_t layers, int64_t heads) : layers_(layers), heads_(heads) {}
    void add(const std::string& name, int64_t layer, int64_t head, double value) {
        auto& [sum, count] = cells_[name].try_emplace({layer, head}, 0.0, 0).first->second;
        if (std::isfinite(value)) sum += value, ++count;
    }
    json nested() const {
        json out = json::object();
        for (const auto& [name, cells] : cells_) {
            json by_layer = json::array();
            for (int64_t layer = 0; layer < layers_; ++layer) {
                json by_head = json::array();
                for (int64_t head = 0; head < heads_; ++head) {
                    const auto cell = cells.find({layer, head});
                    const bool measured = cell != cells.end() && cell->second.second > 0;
                    by_head.push_back(measured ? json(cell->second.first / cell->second.second) : json());
                }
                by_layer.push_back(heads_ == 1 && flat_ ? by_head[0] : std::move(by_head));
            }
            out[name] = std::move(by_layer);
        }
        return out;
    }
    void flatten() { flat_ = true; }

  private:
    int64_t layers_, heads_;
    bool flat_ = false;
    std::map<std::string, std::map<std::pair<int64_t, int64_t>, std::pair<double, int>>> cells_;
};

constexpr std::array<int64_t, 7> kPerDecade{10, 14, 20, 30,
                                            40, 50, 70};  // round, and holding the published table's steps

}  // namespace

bool is_probe_step(int64_t step) {
    if (step < 10) return step <= 2 || step == 5;
    while (step >= 100 && step % 10 == 0) step /= 10;
    return std::find(kPerDecade.begin(), kPerDecade.end(), step) != kPerDecade.end();
}

std::vector<ProbeBatch> probe_documents(const ProbeSection& config, const Loader& validation, int64_t rows_at_once) {
    std::vector<ProbeBatch> groups;
    const int64_t available = validation.samples_available();
    const int64_t samples = available < 0 ? config.samples : std::min(config.samples, available);
    for (int64_t first = 0; first < samples; first += rows_at_once) {
        const Batch batch = validation.load(first, std::min(rows_at_once, samples - first));
        ProbeBatch group;
        group.cu_seqlens.push_back(0);
        for (int64_t row = 0; row < batch.B; ++row) {
            const int64_t begin = row * batch.T;
            const int64_t end = *std::upper_bound(batch.cu_seqlens.begin(), batch.cu_seqlens.end(), begin);
            const int64_t length = config.tokens ? std::min(config.tokens, end - begin) : end - begin;
            const auto append = [&](std::vector<int32_t>& to, const std::vector<int32_t>& from) {
                to.insert(to.end(), from.begin() + begin, from.begin() + begin + length);
            };
            append(group.tokens, batch.tokens), append(group.targets, batch.targets),
                append(group.positions, batch.positions);
            if (const BigramBackcopy* task = validation.bigram_backcopy()) {
                BackcopyState state;
                for (int64_t n = begin; n < begin + length; ++n) {
                    const int32_t token = batch.tokens[static_cast<size_t>(n)];
                    if (token < task->vocab_size()) state = task->after(state, token);  // else a placeholder before <s>
                    group.triggers.push_back(task->is_trigger(state));
                }
            }
            group.cu_seqlens.push_back(static_cast<int32_t>(group.tokens.size()));
        }
        groups.push_back(std::move(group));
    }
    return groups;
}

Probes::Probes(const ProbeSection& config, const NetworkConfig& network, const Loader& validation, int64_t rows_at_once)
    : config_(config), network_(network), groups_(probe_documents(config, validation, rows_at_once)) {}

json Probes::measure(ProbedModel& probed, CoreAttention& core, const Exec& exec) const {
    const int64_t L = network_.model.layers, NH = network_.model.heads, k = network_.attention.placeholders;
    Means heads(L, NH), layers(L + 1, 1);
    layers.flatten();
    for (size_t group = 0; group < groups_.size(); ++group) {
        const ModelInput input = groups_[group].input();
        Transformer& model = probed.forward(core, input);
        const auto n = static_cast<int64_t>(input.tokens.size());
        for (int64_t layer = -1; layer < L; ++layer)
            for (int64_t d = 0; d < groups_[group].documents(); ++d) {
                const int64_t begin = input.cu_seqlens[static_cast<size_t>(d)],
                              end = input.cu_seqlens[static_cast<size_t>(d) + 1];
                if (end - begin < k + 2) continue;
                for (const auto& [name, value] :
                     stream_metrics(model.stream_after(layer, n).slice_rows(begin, end - begin)))
                    layers.add(name, layer + 1, 0, value);
            }
        for (int64_t layer = 0; layer < L; ++layer) {
            const Block block = model.block(core, input, layer, exec);
            const LayerProbe probe(block, model, layer, groups_[group].triggers, input, exec);
            for (const HeadMeasurement& m : probe.measure(exec))
                for (const auto& [name, value] : m.values) heads.add(name, layer, m.head, value);
        }
    }
    return {{"per_head", heads.nested()}, {"per_layer", layers.nested()}};
}

json Probes::attention_maps(ProbedModel& probed, CoreAttention& core, const Loader& validation,
                            const Exec& exec) const {
    const ModelInput input = groups_[0].input();
    Transformer& model = probed.forward(core, input);
    const int64_t length = std::min<int64_t>(config_.map_tokens, input.cu_seqlens[1]);
    json labels = json::array(), maps = json::array();
    for (int64_t t = 0; t < length; ++t) labels.push_back(validation.label(input.tokens[static_cast<size_t>(t)]));
    for (int64_t layer = 0; layer < network_.model.layers; ++layer) {
        const Block block = model.block(core, input, layer, exec);
        json by_head = json::array();
        for (int64_t head = 0; head < network_.model.heads; ++head) {
            const HeadWeights weights(block, head, 0, length);
            json rows = json::array();
            for (int64_t i = 0; i < length; ++i) {
                json row = json::array();
                for (int64_t j = 0; j < length; ++j) row.push_back(std::round(weights.weight(i, j) * 1e5) / 1e5);
                rows.push_back(std::move(row));
            }
            by_head.push_back(std::move(rows));
        }
        maps.push_back(std::move(by_head));
    }
    return {{"labels", labels}, {"maps", maps}};
}

}  // namespace plimsoll
