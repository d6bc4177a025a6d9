// Evaluation of a trained model: `plimsoll eval`. What each suite measures: README of this room.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/eval_data.h"
#include "train/host_weights.h"

namespace plimsoll {

struct EvalOptions {
    std::string run;                  // or one of its checkpoints
    std::vector<std::string> suites;  // of eval_suites()
    std::string json;                 // file to write; empty = none
    std::string data;                 // text to evaluate on; empty = the run's validation split
    std::string precision;            // empty = the run's
    int64_t threads = 0;
    int64_t samples = -1;  // ppl: validation rows; -1 = the run's train.eval_samples, 0 = all
    // streaming
    int64_t window = 0;           // tokens in the cache; 0 = half of the context
    int64_t stream_tokens = 0;    // 0 = 24 contexts
    int64_t dense_targets = 256;  // whose windows are computed again
    // extrapolation
    int64_t length_tokens = 32768;  // scored at each length, at least one row
    // needle
    int64_t trials = 20;  // at each length and depth
    // analysis
    std::string contrast;  // a second text; empty = none
    // multiple_choice
    std::string choices;  // JSON lines
    // interventions
    std::vector<std::string> interventions;  // of parse_interventions; none = a battery
};

// What a suite reads. Computes on the CPU.
struct EvalContext {
    const EvalOptions& options;
    const TrainedModel& model;
    const HostWeights& weights;
    Precision precision;
    Exec exec;

    const NetworkConfig& network() const { return model.network(); }
    EvalData data() const { return EvalData(model, options.data); }
    // Validation rows that losses are means over; 0 = all.
    int64_t samples() const { return options.samples < 0 ? model.config().train.eval_samples : options.samples; }
};

// A suite returns {"table": {"columns", "rows"}, "notes": [...], "curves": [{"name", "x", "y"}], ...}, or {"refused":
// why} where it means nothing for this model. Optional: "group" of a curve (one plot for each), "maps": [{"name",
// "values": [layer][head]}].
nlohmann::json eval_ppl(const EvalContext& context);
nlohmann::json eval_sinks(const EvalContext& context);
nlohmann::json eval_streaming(const EvalContext& context);
nlohmann::json eval_extrapolation(const EvalContext& context);
nlohmann::json eval_needle(const EvalContext& context);
nlohmann::json eval_multiple_choice(const EvalContext& context);
nlohmann::json eval_interventions(const EvalContext& context);
nlohmann::json eval_analysis(const EvalContext& context);

// Names of the suites, in the order they run.
std::vector<std::string> eval_suites();

// Runs the suites, prints a table of each and writes the JSON file. Returns the exit status. Throws Error (78) for
// options and data that cannot be used, before the first suite runs where that can be known.
int run_eval(const EvalOptions& options);

}  // namespace plimsoll
