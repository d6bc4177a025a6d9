// Core attention whose values are twice as wide as its keys (differential attention, V1). The kernels' heads have one
// width: a head is two of theirs, with the same queries and keys and half of the values each. Outputs are those halves;
// weights' gradients are linear in dout and delta, so the halves' gradients of queries and keys add up.
#pragma once

#include "kernels/attention_tasks.h"

namespace plimsoll::cuda {

// Bytes of the workspace that attention on N queries of NH heads takes, at most; and where values are twice as wide, on
// M keys.
int64_t attention_bytes(int64_t N, int64_t NH);
int64_t wide_attention_bytes(int64_t N, int64_t M, int64_t NH, int64_t NKV, int64_t HS);

inline bool is_wide(const AttentionTensors& t) {
    return t.v.shape[2] != t.q.shape[2];
}

// The functions without `wide` for such tensors, by them. Throw Error unless values are twice as wide, and for what no
// network with such values has: a gate, anything learned per head or key, ALiBi.
void wide_attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                            const Exec& exec);
void wide_attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                             const AttentionSpec& spec, Write write, const Exec& exec);
void wide_attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                                  const Exec& exec);
void wide_attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                                   const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec);

}  // namespace plimsoll::cuda
