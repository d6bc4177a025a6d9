// Policies over many steps: what a table or a plot shows.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "dist/simulator/policies.h"

namespace plimsoll {

// A policy over all steps, in its layout of least mean time among those whose every step fits into memory; in the one
// of least memory, with fits = false, if none does. A layout stays for all steps: parameters would have to move.
struct PolicySummary {
    Policy policy{};
    std::string layout;
    bool fits = true;
    std::vector<double> seconds;  // by step
    double mean = 0, p50 = 0, p95 = 0;
    double imbalance_before = 1, imbalance = 1;  // means over steps
    StepParts forward, backward;                 // means over steps
    double idle = 0, exposed = 0;                // share of all ranks' time; seconds
    double sent_most = 0, sent_mean = 0;         // bytes of a rank and step
    double memory = 0;                           // bytes of a GPU, the largest of all steps
    double as_fixed = 0;                         // share of the steps
    double over_cap = 0;                         // plans per step, see SimulatedStep
};

struct Study {
    std::vector<PolicySummary> policies;  // as kPolicies
    const PolicySummary& of(Policy policy) const;
    // Mean time of `policy` over CAD's; 0 where one of them does not fit into memory.
    double speed_up_over(Policy policy) const;
    // Over the fastest that can be built: neither CAD nor perfect packing.
    double speed_up_over_best() const;
};

// `steps`: simulate_policies of every step, all of one setting. `memory`: bytes of a GPU.
Study summarize(std::span<const std::vector<PolicyRun>> steps, double memory);

// The p-th percentile, 0 <= p <= 1, between neighbours in proportion.
double percentile(std::vector<double> values, double p);

}  // namespace plimsoll
