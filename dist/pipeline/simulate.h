// How long a schedule takes, and whether it ends.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dist/pipeline/schedule.h"

namespace plimsoll {

struct ActionTime {
    double start = 0;
    double end = 0;
};

struct Simulation {
    double makespan = 0;
    double bubble = 0;                           // idle share of all stages' time until the makespan
    std::vector<double> busy;                    // by stage: time in forward, backward and weight
    std::vector<int64_t> peak_in_flight;         // by stage: (micro batch, chunk) held from forward until weight
    std::vector<std::vector<ActionTime>> times;  // as Schedule::actions; messages: from posting until matched
    std::string stuck;                           // empty if it ran to its end, else the actions that wait
};

// Runs the lists of all stages against each other without buffers: see Schedule. An action with a tick starts when
// every stage has reached that tick. `costs` has one entry per virtual stage. A schedule that deadlocks, or whose
// messages do not match in order, gives `stuck`; what it computes is not checked here (problem_with does). Throws Error
// (70) for actions or costs outside the schedule's sizes.
Simulation simulate(const Schedule& schedule, const PipelineCosts& costs);

// The same for micro batches that differ: what an action that is no message takes, in seconds or any unit.
using ActionSeconds = std::function<double(int stage, const Action& action)>;
Simulation simulate(const Schedule& schedule, const ActionSeconds& seconds, double send);

// Peaks by stage from the order alone.
std::vector<int64_t> peak_in_flight(const Schedule& schedule);

// Bubbles in closed form, for stages of equal cost and messages that take no time.
// 1F1B: (stages - 1) / (M + stages - 1), whatever forward and backward cost.
double bubble_of_one_forward_one_backward(int stages, int64_t micro_batches);
// (stages - 1) / (chunks M + stages - 1).
double bubble_of_interleaved(int stages, int64_t micro_batches, int chunks);
// idle / (M (F + B + W) + idle), idle = (stages - 1) (F + B - W), per stage; for M >= stages, F, B and W of one virtual
// stage each.
double bubble_of_zero_bubble_h1(int stages, int64_t micro_batches, double forward, double backward, double weight);

}  // namespace plimsoll
