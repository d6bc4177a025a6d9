// RMSNorm of queries and keys per head.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// out_h = x_h * rstd_h * gain,  rstd_h = 1 / sqrt(mean(x_h^2) + eps), over the HS channels of each head, with one gain
// (HS) for all heads.   Query-key normalization, Henry et al., arXiv:2010.04245, with the RMSNorm of Qwen3.
// x, out (N, H, HS) of one floating dtype, each with a row stride or not; gain (HS) and rstd (N, H) in the dtype sums
// are kept in. Throws Error if shapes or dtypes disagree.
void qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, const Exec& exec);

// dx (N, H, HS) = the gradient (overwritten; may be dout's own memory); dgain (HS) as `write` says, summed over rows in
// kQkNormSlots fixed ranges.
void qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                      const Exec& exec);

inline constexpr int64_t kQkNormSlots = 64;

}  // namespace plimsoll
