// Kernels of queries and keys: what the score of a pair is a product of, instead of the rows themselves.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// out = elu(x) + 1, per element: x + 1 above 0, e^x below, so that products of rows are positive.
//                                                                            Katharopoulos et al., arXiv:2006.16236
// x, out (N, H, HS) of one floating dtype, each with a row stride or not; out may be x's memory.
void elu1_forward(Tensor out, Tensor x, const Exec& exec);
// dx = dout * (1 above 0, e^x below) = dout min(out, 1). dx may be dout's own memory.
void elu1_backward(Tensor dx, Tensor dout, Tensor out, const Exec& exec);

}  // namespace plimsoll
