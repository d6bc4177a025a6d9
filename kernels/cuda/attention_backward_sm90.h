// Core attention's backward on compute capability 9.0; everything else has the kernels of attention_backward.cu.
#pragma once

#include "kernels/attention.h"

namespace plimsoll::cuda {

struct AttentionTables;
struct BackwardCall;

// What of a call there are kernels for: by its device, head size, mask, scale and the gradients' dtype;
// nothing of one with biases of keys.
struct Backward90 {
    bool dq, dkv;
};
Backward90 takes_sm90_backward(const AttentionTensors& d, const AttentionTensors& t, const AttentionSpec& spec,
                               const Exec& exec);

// Words of the workspace that run_sm90_backward() wants, 16-byte aligned.
int64_t sm90_backward_words(const AttentionTensors& t);

// What `takes` says of attention_backward(), with the tables of documents that lie one after the other.
void run_sm90_backward(Backward90 takes, const AttentionTensors& d, const AttentionTensors& t, const BackwardCall& call,
                       float* rows, const AttentionTables& tables, const AttentionSpec& spec, const Exec& exec);

}  // namespace plimsoll::cuda
