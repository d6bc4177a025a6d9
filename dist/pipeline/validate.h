// Whether a schedule computes what training needs, in an order that ends and has the bits of one process.
#pragma once

#include <limits>
#include <optional>
#include <string>

#include "dist/pipeline/schedule.h"

namespace plimsoll {

inline constexpr int64_t kNoCap = std::numeric_limits<int64_t>::max();

// The first thing wrong with `schedule`, or nothing. Demanded are:
// - each (micro batch, chunk) of a stage has exactly one forward, backward and weight, in this order;
// - forward has received from the virtual stage before, backward from the one after; what is computed is sent once;
// - backward and weight of a (stage, chunk) come in ascending micro batch order: sums have the bits of one process;
// - messages from stage to stage match in order, and all stages reach their end without buffers;
// - no stage holds more than `in_flight_cap` (micro batch, chunk) from forward until weight;
// - with ticks: every stage has every tick, all stages the same phase in it, and no work other than the tick's.
std::optional<std::string> problem_with(const Schedule& schedule, int64_t in_flight_cap = kNoCap);

}  // namespace plimsoll
