// The norm of all gradients.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// sum_i x_i^2 over a 1-D fp32 or fp64 tensor, in fp64: blocks of kNormBlock elements, each summed in a fixed order,
// then block by block. Bits do not depend on the number of threads. Infinite or NaN if an element is.
double sum_of_squares(Tensor x, const Exec& exec);

inline constexpr int64_t kNormBlock = 65536;

}  // namespace plimsoll
