// bf16 matrix products by blocks of 32 x 32 (blocks.h).
#pragma once

#include "kernels/cpu/avx512_bf16/blocks.h"
#include "kernels/cpu/avx512_bf16/packed_right.h"
#include "kernels/exec.h"

namespace plimsoll::cpu::avx512_bf16 {

// How much of K a product sums in one go; where there is more, it adds the sums of parts.
inline constexpr int64_t kLongest = 4096;

// What follows a product element by element, while it is in registers: see Following. `other` is like c.
struct Then {
    Following following = Following::kNothing;
    Matrix other{};
};

// c (M, N) = a (M, K) b (K, N) + beta * c + bias (N; may be null), beta 0 or 1, as cpu::gemm: a and b are bf16, c is
// bf16 or fp32 with contiguous rows, bias fp32; M, N, K > 0. Sums are kept in fp32, K ascends, and every element of c
// is made by one thread: bits depend on K, the strides and whether N is thin (thin_rows.h), not on threads, M or other
// N. What follows wants c in bf16 and nothing to accumulate. Wants available().
void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec, const Then& then = {});

// c (M, N) = a (M, K) b + bias for some rows, by the calling thread alone, which has a TileScope: all of b is packed.
// The bits are gemm's. M fits a second-level cache with what the caller keeps there (about 128 rows); K is at most
// kLongest.
void gemm_rows(Matrix c, Matrix a, const PackedRight& b, const float* bias, const Then& then = {});

// What else comes of a walk over a weight's gradient; what is null is not wanted.
struct GradientSums {
    float* of_rows = nullptr;   // (M): sums of a's rows, the bias's gradient, added to what is there or not as c is
    double* squares = nullptr;  // (M / 32, N / 32, rounded up): sums of squares of c's blocks of 32 x 32, in fp64
};

// The same as gemm without bias. Sums of rows want a's columns contiguous (a.column != 1), squares c in fp32. Bits of
// the sums of rows depend on K alone, those of squares on the elements of the block, those of c as gemm's on whether M
// is thin.
void weight_gradient(Matrix c, const GradientSums& sums, Matrix a, Matrix b, bool accumulate, const Exec& exec);

}  // namespace plimsoll::cpu::avx512_bf16
