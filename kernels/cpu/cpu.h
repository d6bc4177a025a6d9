// The CPU implementations that kernels/dispatch.cpp chooses from. Each follows the contract of the op's own header.
#pragma once

#include "kernels/norm.h"

namespace plimsoll::cpu {

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec);
void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec spec, Write write, const Exec& exec);

}  // namespace plimsoll::cpu
