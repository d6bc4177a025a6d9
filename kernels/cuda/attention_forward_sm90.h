// Core attention's forward on compute capability 9.0; everything else has the kernels of attention_forward.cu.
#pragma once

#include "kernels/attention.h"

namespace plimsoll::cuda {

struct AttentionTables;

// Whether there is a kernel for a call: its device, head size, mask and scale, and no biases of keys.
bool takes_sm90_forward(const AttentionTensors& t, const AttentionSpec& spec, const Exec& exec);

// attention_forward() with the tables of documents that lie one after the other.
void attention_forward_sm90(const AttentionTensors& t, const AttentionTables& tables, const AttentionSpec& spec,
                            const Exec& exec);

}  // namespace plimsoll::cuda
