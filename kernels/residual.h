// The residual stream: adding a branch to it, and reading it as a matmul operand.
#pragma once

#include "kernels/norm.h"

namespace plimsoll {

// out = x + branch, elementwise. x, out (N, C) fp32 or fp64; branch (N, C) that dtype or bf16. out may be x's memory.
void residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& exec);

// residual_forward into `sum`, then norm_forward of `sum` into out, mean and rstd, in one pass over memory. Bits are
// those of the two ops one after the other.
void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec);

// The way back: norm_backward into dx, the gradient of sum and of x, then convert of dx into dbranch, in one pass over
// memory. dbranch (N, C) has dout's dtype. Bits are those of the two ops one after the other.
void residual_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor sum, Tensor gain,
                            Tensor mean, Tensor rstd, NormSpec spec, Write dx_write, Write write, const Exec& exec);

// The same, or norm_backward where dbranch is empty.
inline void stream_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor x,
                                 Tensor gain, Tensor mean, Tensor rstd, NormSpec spec, Write dx_write, Write write,
                                 const Exec& exec) {
    if (dbranch)
        residual_norm_backward(dx, dbranch, dgain, dbias, dout, x, gain, mean, rstd, spec, dx_write, write, exec);
    else
        norm_backward(dx, dgain, dbias, dout, x, gain, mean, rstd, spec, dx_write, write, exec);
}

// out = x, converted between floating dtypes. Both (N, C), contiguous. The gradient of a branch is the stream's
// gradient; in bf16 training this makes it a matmul operand.
void convert(Tensor out, Tensor x, const Exec& exec);

// Every element of a contiguous tensor = 0.
void fill_zero(Tensor out, const Exec& exec);

}  // namespace plimsoll
