// fp32 matrix products on AVX-512.
#pragma once

#include "kernels/exec.h"
#include "kernels/matrix.h"

namespace plimsoll::cpu::avx512 {

// Whether gemm() takes this product, and is the faster one: fp32, strides of 1 on one side of each matrix, rows enough
// to repay packing b, and columns to fill half a panel.
bool takes(const Matrix& c, const Matrix& a, const Matrix& b);

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1, as cpu::gemm, for what takes() likes.
// Every element is made by one thread, of fused additions in ascending K, up to 512 of K at a time: bits depend on K
// alone, not on threads, M, N or strides. Wants available().
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec);

}  // namespace plimsoll::cpu::avx512
