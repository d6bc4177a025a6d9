// One matrix product on the GPU: cuBLASLt (gemm_cublaslt.cpp), or a reference in the emulated build.
#pragma once

#include "kernels/cuda/context.h"
#include "kernels/matrix.h"

namespace plimsoll::cuda {

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1; c's rows are contiguous, M, N, K > 0.
// a and b are both fp32 or both bf16, c has their dtype or fp32, bias has c's. Sums in fp32. Equal inputs on one card
// give equal bits: the algorithm is a function of shapes, strides and dtypes.
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec);

}  // namespace plimsoll::cuda
