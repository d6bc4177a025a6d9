// What the generators share: orders of computing, and the messages between them.
#pragma once

#include <vector>

#include "dist/pipeline/schedule.h"

namespace plimsoll {

// Throws Error (78) for sizes below 1.
void check_pipeline_sizes(int stages, int64_t micro_batches);
Schedule empty_schedule(std::string name, int stages, int64_t micro_batches, int chunks = 1);

// The order of 1F1B; with `delay_weights` stage s runs each kWeight s micro batches late, as ZB-H1 has it.
Schedule one_forward_one_backward_order(std::string name, int stages, int64_t micro_batches, bool delay_weights);

// When a message is exchanged: at once when it was computed, or when its receiver has come to use it.
enum class Moment { kReady, kNeeded };
struct MessageRules {
    Moment forward = Moment::kNeeded;
    Moment backward = Moment::kNeeded;
    bool gradient_before_weight = false;  // send after kBackward, else after the kWeight that follows it
};

// An action of computing and its time in an execution with buffers.
struct TimedAction {
    Action action;
    double start = 0;
    double end = 0;
};
using Timeline = std::vector<std::vector<TimedAction>>;  // by stage

// Earliest times of `orders` (kForward, kBackward, kWeight by stage) if messages could wait in buffers. `costs` are
// above 0. Checks (70) that the orders can run at all.
Timeline earliest(const Schedule& orders, const PipelineCosts& costs, const MessageRules& rules);

// `orders` with messages between its actions, which `timeline` has too. Each message gets one moment, after its
// producer and not after its consumer, and both lists have it at that moment. All actions then lie in one order of time
// that every list follows, so the first that is not done yet can always run: no deadlock without buffers, whatever
// things cost.
Schedule with_messages(Schedule orders, const Timeline& timeline, const MessageRules& rules);

}  // namespace plimsoll
