// The feed-forward half of a block by panels of rows: kernels/feed_forward.h on a CPU with AVX512_BF16.
#pragma once

#include "kernels/exec.h"
#include "kernels/feed_forward.h"

namespace plimsoll::cpu {

// Whether it pays: bf16 operands, AVX512_BF16, both packed weights in a second-level cache, sums that
// products make in one go, and panels for all threads.
bool feed_forward_is_fused(const FeedForwardTensors& t, const Exec& exec);

// Want the above.
void feed_forward_forward(const FeedForwardTensors& t, Activation kind, NormSpec spec, const Exec& exec);
void feed_forward_backward(const FeedForwardGradients& d, const FeedForwardTensors& t, Activation kind, NormSpec spec,
                           Write write, const Exec& exec);

}  // namespace plimsoll::cpu
