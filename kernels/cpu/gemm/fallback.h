// What the libraries do not do: fp64, and bf16 by way of fp32.
#pragma once

#include <algorithm>

#include "kernels/cpu/gemm/gemm.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {

// c = a b + beta c + bias in R by plain loops: rows of c are shared out among threads, and every element adds its K
// products in ascending order, so bits do not depend on the number of threads.
template <class R>
void gemm_loops(Matrix c, Matrix a, Matrix b, bool accumulate, const R* bias, const Exec& exec) {
    const int64_t M = c.rows, N = c.columns, K = a.columns;
    const R* left = static_cast<const R*>(a.data);
    R* packed = static_cast<R*>(b.data);
    if (b.column != 1) {  // rows of b contiguous, so that the inner loop runs along them
        packed = workspace<struct PackedOperand, R>(K * N);
        for (int64_t k = 0; k < K; ++k)
            for (int64_t n = 0; n < N; ++n) packed[k * N + n] = static_cast<R*>(b.data)[k * b.row + n * b.column];
    }
    const int64_t packed_row = b.column == 1 ? b.row : N;
    constexpr int64_t kColumns = 256;  // of c at once: they stay in L1
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (M * N * K > 100000)
    for (int64_t m = 0; m < M; ++m) {
        R* out = static_cast<R*>(c.data) + m * c.row;
        for (int64_t n0 = 0; n0 < N; n0 += kColumns) {
            const int64_t n1 = std::min(N, n0 + kColumns);
            R sums[kColumns];
            for (int64_t n = n0; n < n1; ++n) sums[n - n0] = (accumulate ? out[n] : R(0)) + (bias ? bias[n] : R(0));
            for (int64_t k = 0; k < K; ++k) {
                const R x = left[m * a.row + k * a.column];
                const R* from = packed + k * packed_row;
#pragma omp simd
                for (int64_t n = n0; n < n1; ++n) sums[n - n0] += x * from[n];
            }
            for (int64_t n = n0; n < n1; ++n) out[n] = sums[n - n0];
        }
    }
}

// The same matrix, dense and in fp32, in the calling thread's workspace named by Tag.
template <class Tag>
Matrix widened(Matrix m, const Exec& exec) {
    // Along the contiguous dimension; the result keeps the orientation.
    const bool by_rows = m.column == 1;
    const int64_t outer = by_rows ? m.rows : m.columns, inner = by_rows ? m.columns : m.rows, stride = by_rows ? m.row : m.column;
    float* wide = workspace<Tag, float>(outer * inner);
    const bf16* from = static_cast<const bf16*>(m.data);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (outer * inner > 100000)
    for (int64_t i = 0; i < outer; ++i) {
#pragma omp simd
        for (int64_t j = 0; j < inner; ++j) wide[i * inner + j] = from[i * stride + j];
    }
    return {wide, DType::kF32, m.rows, m.columns, by_rows ? inner : 1, by_rows ? 1 : inner};
}

// A product of bf16 operands by way of `product`, an fp32 one.
template <class Product>
void gemm_bf16_by_fp32(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec, Product&& product) {
    const Matrix wide_a = widened<struct WideLeft>(a, exec), wide_b = widened<struct WideRight>(b, exec);
    if (c.dtype == DType::kF32) return product(c, wide_a, wide_b, accumulate, bias, exec);
    Matrix wide_c{workspace<struct WideResult, float>(c.rows * c.columns), DType::kF32, c.rows, c.columns, c.columns, 1};
    bf16* to = static_cast<bf16*>(c.data);
    float* from = static_cast<float*>(wide_c.data);
    if (accumulate)
        for (int64_t m = 0; m < c.rows; ++m)
            for (int64_t n = 0; n < c.columns; ++n) from[m * c.columns + n] = to[m * c.row + n];
    product(wide_c, wide_a, wide_b, accumulate, bias, exec);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (c.rows * c.columns > 100000)
    for (int64_t m = 0; m < c.rows; ++m) {
#pragma omp simd
        for (int64_t n = 0; n < c.columns; ++n) store(to[m * c.row + n], from[m * c.columns + n]);
    }
}

}  // namespace plimsoll::cpu
