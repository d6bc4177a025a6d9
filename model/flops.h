// How much arithmetic a token costs.
#pragma once

#include "model/config.h"

namespace plimsoll {

// Floating-point operations (a multiply-add is two) per token of forward and backward together: 3 x forward, which is
// 2 per weight of every matrix product (the head included, the embedding lookup not) and 4 HS per visible key and head
// in attention, averaged over the positions of a row under the causal mask and the window. Recomputation not counted.
double flops_per_token(const NetworkConfig& config);

// The part of one block, and of the head.
double block_flops_per_token(const NetworkConfig& config, int64_t layer);
double head_flops_per_token(const NetworkConfig& config);

}  // namespace plimsoll
