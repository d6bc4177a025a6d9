// `plimsoll simulate`: what a cluster would take, with and without core-attention disaggregation.
#pragma once

#include <string>
#include <vector>

#include "dist/simulator/study.h"
#include "train/simulate_config.h"

namespace plimsoll {

// One cell of a grid.
struct SimulatedCell {
    std::vector<std::string> settings;  // "lengths.context=262144": what the grid set
    SimulateConfig config;
    Study study;
};

// All steps of one configuration, on `config.simulate.threads` threads. Deterministic, whatever their number.
Study simulate_study(const SimulateConfig& config);

// Simulates every cell, prints it, and writes them all to the JSON file `json` unless it is empty. The exit status.
int run_simulate(const ConfigSources& sources, const std::string& json);

}  // namespace plimsoll
