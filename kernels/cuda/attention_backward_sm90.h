// Core attention's backward on compute capability 9.0; everything else has the kernels of attention_backward.cu.
#pragma once

#include <cuda_runtime.h>

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

// The table of what backward knows of each query, in `rows`, that workspace; null if the kernels want none.
float* sm90_backward_rows(Backward90 takes, const AttentionTensors& t, const BackwardCall& call, float* rows,
                          const AttentionTables& tables, const AttentionSpec& spec, const Exec& exec);

// What `takes` says of attention_backward(), with that table and the tables of documents that lie one after the other.
// d.k and d.v are made on `beside`.
void run_sm90_backward(Backward90 takes, const AttentionTensors& d, const AttentionTensors& t, const BackwardCall& call,
                       const float* rows, const AttentionTables& tables, const AttentionSpec& spec, cudaStream_t beside,
                       const Exec& exec);

}  // namespace plimsoll::cuda
