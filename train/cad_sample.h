// What core attention looked like in a step, for the report.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include "train/training_attention.h"

namespace plimsoll {

// 1, 2, 5, 10, 20, 50, ...: few, and the same on every rank.
bool is_cad_sample(int64_t step);

// A line of cad.jsonl: of the step's most unequal round, forward and backward, which rank computes which rows, loads,
// bytes, and what every rank did when (absent where nothing travels). Every rank takes part, after a sampled step.
nlohmann::json cad_sample(int64_t step, const TrainingAttention& attention, Communicator& world);

}  // namespace plimsoll
