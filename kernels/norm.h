// RMSNorm and LayerNorm over the last dimension of a residual stream.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

enum class NormKind : uint8_t { kRms, kLayer };

struct NormSpec {
    NormKind kind = NormKind::kRms;
    double eps = 1e-5;
};

// out_i = (x_i - mean) * rstd * gain_i + bias_i,  rstd = 1 / sqrt(mean((x - mean)^2) + eps)
// LayerNorm: Ba et al., arXiv:1607.06450. RMSNorm (mean = 0, no bias): Zhang and Sennrich, arXiv:1910.07467.
// x (N, C) and gain, bias (C) fp32 or fp64; out (N, C) that dtype or bf16; mean, rstd (N) in x's dtype are kept for
// norm_backward (mean is absent for RMSNorm; bias may be absent).
// Each row is summed in a fixed order: equal inputs give equal bits for any number of threads.
// Throws Error if shapes or dtypes disagree.
void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec);

// The gradient through the norm, to dx (N, C) as `dx_write` says: the residual stream's gradient is a sum over its
// readers, the first of which overwrites. The bits of overwriting are those of adding to zeros.
//   dx (+)= rstd * (g - mean(g) - xhat * mean(g * xhat)),  g = dout * gain;  for RMSNorm without the mean(g) term.
// On a CPU, dx that is overwritten may be x's memory.
// dgain = sum over rows of dout * xhat, dbias = sum over rows of dout, written as `write` says. dout has out's dtype.
// Rows are summed in kNormSlots fixed ranges, then range by range: bits do not depend on the number of threads.
void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec spec, Write dx_write, Write write, const Exec& exec);

// The number of row ranges of a parameter gradient's sum: part of the numerics, so a constant.
inline constexpr int64_t kNormSlots = 64;

}  // namespace plimsoll
