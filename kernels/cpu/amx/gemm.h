// bf16 matrix products on AMX.
#pragma once

#include "kernels/matrix.h"

namespace plimsoll::cpu::amx {

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1, as cpu::gemm: a and b are bf16, c is
// bf16 or fp32 with contiguous rows, bias fp32; M, N, K > 0. Sums are kept in fp32, K ascends, and every element of c
// is made by one thread: bits depend on K and the strides alone, not on threads, M or N. Wants available().
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec);

}  // namespace plimsoll::cpu::amx
