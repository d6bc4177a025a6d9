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

// The documents that are probed: the first of each of the first `samples` validation rows, cut to `tokens`.
struct ProbeBatch {
    std::vector<int32_t> tokens, targets, positions, cu_seqlens;
    int64_t documents() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
};

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
    ModelInput input_of(size_t group) const;

    ProbeSection config_;
    NetworkConfig network_;
    std::vector<ProbeBatch> groups_;
    std::vector<bool>
        is_trigger_;  // (V) Bigram-Backcopy's triggers, whose queries the mass metrics leave out; else empty
};

}  // namespace plimsoll
