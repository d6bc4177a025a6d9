// A step by ranks that sleep instead of computing: how far the simulator can be believed.
#pragma once

#include "dist/cad/disaggregated_attention.h"
#include "dist/communicator.h"
#include "dist/simulator/step.h"

namespace plimsoll {

// What travels is small, so that ranks share a machine's cores without minding: rows of a few bytes.
struct RehearsalSizes {
    CaShape shape{.NH = 1, .NKV = 1, .HS = 4, .VS = 4, .dtype = DType::kF32};
    int64_t stream = 4;  // elements of a token between pipeline stages
};

// `costs` with the bytes of such rows, and links as fast as this group's: measured by all-to-alls of small and large
// messages. Every rank takes part, and gets the same.
StepCosts rehearsal_costs(StepCosts costs, const RehearsalSizes& sizes, Communicator& world);

// Seconds of one step, from all ranks' start to the last one's end. Ranks are column x stages + stage. Plans, schedule,
// messages and the order of everything are those of training; pieces of blocks and tasks of core attention are sleeps
// of `costs`. With `cad` core attention goes by plan, which needs a schedule with ticks; without, every rank computes
// its own documents'. Documents must be whole. Every rank takes part, and gets the same.
double rehearse(Communicator& world, const StepPlacement& placement, const Schedule& schedule, const StepCosts& costs,
                const CadOptions* cad, const RehearsalSizes& sizes = {});

}  // namespace plimsoll
