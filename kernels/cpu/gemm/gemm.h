// One matrix product, as each library behind kernels/cpu/matmul.cpp provides it. CMake compiles exactly one of
// onednn.cpp, openblas.cpp and plain.cpp.
#pragma once

#include <string>

#include "kernels/matrix.h"

namespace plimsoll::cpu {

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1; c's rows are contiguous.
// a and b have one dtype; c has it too, or fp32 for bf16; bias is fp32 (fp64 for fp64). M, N, K > 0.
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec);

std::string gemm_library();
// Whether gemm() multiplies bf16 operands as such, and faster than fp32.
bool gemm_bf16_is_fast();

}  // namespace plimsoll::cpu
