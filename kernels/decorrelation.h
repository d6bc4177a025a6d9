// Decorrelation of a stream from the first tokens of its documents, an auxiliary loss.
#pragma once

#include <span>

#include "kernels/exec.h"

namespace plimsoll {

// The gradient of scale * sum_n c_n^2,  c_n = cos(h_n, h_s),  s = n - positions[n] the first token of n's document,
// which no gradient goes to; c_n = 0 where n = s or a vector is zero. Adds it to the stream's gradient:
//   dh_n += scale * 2 c_n (h_s / (|h_n| |h_s|) - c_n h_n / |h_n|^2)
// Less similarity between <s> and other tokens, as in Anand et al., arXiv:2510.22603; square, sums and the stopped
// gradient are plimsoll's.
// h, dh (N, C), contiguous, and squares (N), which gets c_n^2, in one dtype, fp32 or fp64; sum (1) fp64 gains that of
// the squares. positions (N), at most n each. Bits do not depend on the number of threads.
// Throws Error if shapes or dtypes disagree.
void decorrelation_backward(Tensor dh, Tensor sum, Tensor squares, Tensor h, std::span<const int32_t> positions,
                            double scale, const Exec& exec);

}  // namespace plimsoll
