// Probes M1-M9: what attention and the residual stream look like, per layer and head. Definitions: README of this room.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "data/loader.h"
#include "train/config.h"
#include "train/probed_model.h"

namespace plimsoll {

// Whether a log-spaced probe falls on `step`: 0, 1, 2, 5, 10, 14, 20, 30, 40, 50, 70, 100, 140, ...
bool is_probe_step(int64_t step);

// Documents that are forwarded together.
struct ProbeBatch {
    std::vector<int32_t> tokens, targets, positions, cu_seqlens;
    std::vector<bool> triggers;  // (N) Bigram-Backcopy: positions of triggers; else empty
    int64_t documents() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
    ModelInput input() const { return {tokens, targets, positions, cu_seqlens}; }
};

// The documents that are probed: the first of each of the first `samples` validation rows, cut to `tokens`.
std::vector<ProbeBatch> probe_documents(const ProbeSection& config, const Loader& validation, int64_t rows_at_once);

class Probes {
  public:
    // Loads the probed documents once. `rows_at_once` of them are forwarded together.
    Probes(const ProbeSection& config, const NetworkConfig& network, const Loader& validation, int64_t rows_at_once);

    // Runs the model on the probed documents and measures: one line of probes.jsonl ("per_head", "per_layer").
    // Deterministic for any number of threads.
    nlohmann::json measure(ProbedModel& model, CoreAttention& core, const Exec& exec) const;
    // Attention weights of the first document for every layer and head, with the labels of its tokens.
    nlohmann::json attention_maps(ProbedModel& model, CoreAttention& core, const Loader& validation,
                                  const Exec& exec) const;

  private:
    ProbeSection config_;
    NetworkConfig network_;
    std::vector<ProbeBatch> groups_;
};

}  // namespace plimsoll
