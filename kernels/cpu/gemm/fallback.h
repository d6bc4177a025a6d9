// What the libraries do not do: fp64, and bf16 by way of fp32.
#pragma once

#include <algorithm>

#include "kernels/cpu/gemm/gemm.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {

// Multiply-adds that take as long as one element does where worth_threads() counts them.
inline constexpr int64_t kProductsPerElement = 8;

// c = a b + beta c + bias in R by plain loops. Every element of c belongs to one thread and adds its K products in
// ascending order, so bits do not depend on the number of threads.
template <class R>
class GemmLoops {
  public:
    static void run(Matrix c, Matrix a, Matrix b, bool accumulate, const R* bias, const Exec& exec) {
        const int64_t M = c.rows, N = c.columns, K = a.columns;
        R* packed = workspace<struct PackedOperand, R>(std::min(K, kDepth) * std::min(panels(N) * kWidth, kColumns));
#pragma omp parallel num_threads(exec.threads) if (worth_threads(M * N * K / kProductsPerElement))
        for (int64_t n0 = 0; n0 < N; n0 += kColumns) {
            const int64_t n1 = std::min(N, n0 + kColumns);
            for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
                const int64_t k1 = std::min(K, k0 + kDepth);
#pragma omp for schedule(static)
                for (int64_t panel = 0; panel < panels(n1 - n0); ++panel)
                    pack(packed + panel * kWidth * (k1 - k0), b, k0, k1, n0 + panel * kWidth);
#pragma omp for schedule(static)
                for (int64_t m = 0; m < M; m += kHeight) {
                    R left[kDepth * kHeight];
                    pack_left(left, a, m, k0, k1);
                    for (int64_t panel = 0; panel < panels(n1 - n0); ++panel)
                        tile(c, left, packed + panel * kWidth * (k1 - k0), k1 - k0, m, n0 + panel * kWidth,
                             accumulate || k0 > 0, k0 > 0 ? nullptr : bias);
                }
            }
        }
    }

  private:
    // A tile of c, kHeight rows of kVectors vectors, is summed in registers: 12 of 16, or of 32 with AVX-512. Vectors
    // are as wide as registers of this build: GCC 12 splits wider ones by way of memory, about 100 times slower.
    typedef R Vector __attribute__((vector_size(__BIGGEST_ALIGNMENT__)));
    static constexpr int64_t kHeight = 6, kVectors = 2, kLane = sizeof(Vector) / sizeof(R), kWidth = kVectors * kLane;
    static constexpr int64_t kDepth = 256;            // of K at once: a panel of b (32 KiB) stays in L1
    static constexpr int64_t kColumns = 16 * kWidth;  // of c at once: the panels (512 KiB) stay in L2

    static int64_t panels(int64_t columns) {
        return (columns + kWidth - 1) / kWidth;
    }

    // Rows [k0, k1) of kWidth columns of b, one after the other; zeros stand for columns past the end.
    static void pack(R* to, const Matrix& b, int64_t k0, int64_t k1, int64_t n0) {
        const R* from = static_cast<const R*>(b.data) + n0 * b.column;
        const int64_t width = std::min(kWidth, b.columns - n0);
        for (int64_t k = k0; k < k1; ++k, to += kWidth)
            for (int64_t n = 0; n < kWidth; ++n) to[n] = n < width ? from[k * b.row + n * b.column] : R(0);
    }

    // Columns [k0, k1) of kHeight rows of a, one after the other: strides of a power of two would share cache sets.
    // Rows past the end repeat the last one.
    static void pack_left(R* to, const Matrix& a, int64_t m0, int64_t k0, int64_t k1) {
        const R* from = static_cast<const R*>(a.data);
        for (int64_t k = k0; k < k1; ++k, to += kHeight)
            for (int64_t m = 0; m < kHeight; ++m) to[m] = from[std::min(m0 + m, a.rows - 1) * a.row + k * a.column];
    }

    // Adds K products to each element of the tile of c at (m0, n0).
    static void tile(const Matrix& c, const R* left, const R* panel, int64_t K, int64_t m0, int64_t n0, bool accumulate,
                     const R* bias) {
        const int64_t height = std::min(kHeight, c.rows - m0), width = std::min(kWidth, c.columns - n0);
        alignas(Vector) R edge[kHeight][kWidth] = {};
        Vector sums[kHeight][kVectors];
        R* out = static_cast<R*>(c.data) + m0 * c.row + n0;
        for (int64_t m = 0; m < kHeight; ++m) {
            for (int64_t n = 0; n < (m < height ? width : 0); ++n)
                edge[m][n] = (accumulate ? out[m * c.row + n] : R(0)) + (bias ? bias[n0 + n] : R(0));
            for (int64_t v = 0; v < kVectors; ++v) sums[m][v] = *reinterpret_cast<const Vector*>(edge[m] + v * kLane);
        }
        for (int64_t k = 0; k < K; ++k, left += kHeight, panel += kWidth) {
#pragma GCC unroll 8
            for (int64_t m = 0; m < kHeight; ++m)
#pragma GCC unroll 8
                for (int64_t v = 0; v < kVectors; ++v)
                    sums[m][v] += left[m] * *reinterpret_cast<const Vector*>(panel + v * kLane);
        }
        for (int64_t m = 0; m < height; ++m) {
            for (int64_t v = 0; v < kVectors; ++v) *reinterpret_cast<Vector*>(edge[m] + v * kLane) = sums[m][v];
            std::copy_n(edge[m], width, out + m * c.row);
        }
    }
};

// The same matrix, dense and in fp32, in the calling thread's workspace named by Tag.
template <class Tag>
Matrix widened(Matrix m, const Exec& exec) {
    // Along the contiguous dimension; the result keeps the orientation.
    const bool by_rows = m.column == 1;
    const int64_t outer = by_rows ? m.rows : m.columns, inner = by_rows ? m.columns : m.rows;
    const int64_t stride = by_rows ? m.row : m.column;
    float* wide = workspace<Tag, float>(outer * inner);
    const bf16* from = static_cast<const bf16*>(m.data);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(outer * inner))
    for (int64_t i = 0; i < outer; ++i) {
#pragma omp simd
        for (int64_t j = 0; j < inner; ++j) wide[i * inner + j] = from[i * stride + j];
    }
    return {wide, DType::kF32, m.rows, m.columns, by_rows ? inner : 1, by_rows ? 1 : inner};
}

// A product of bf16 operands by way of `product`, an fp32 one.
template <class Product>
void gemm_bf16_by_fp32(Matrix c, Matrix a, Matrix b, bool accumulate, const void* bias, const Exec& exec,
                       Product&& product) {
    const Matrix wide_a = widened<struct WideLeft>(a, exec), wide_b = widened<struct WideRight>(b, exec);
    if (c.dtype == DType::kF32) return product(c, wide_a, wide_b, accumulate, bias, exec);
    // A result that is added to is widened too; one that is overwritten may hold NaNs and is not read.
    const Matrix wide_c = accumulate ? widened<struct WideResult>(c, exec)
                                     : Matrix{workspace<struct WideResult, float>(c.rows * c.columns),
                                              DType::kF32,
                                              c.rows,
                                              c.columns,
                                              c.columns,
                                              1};
    product(wide_c, wide_a, wide_b, accumulate, bias, exec);
    bf16* to = static_cast<bf16*>(c.data);
    const float* from = static_cast<const float*>(wide_c.data);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(c.rows * c.columns))
    for (int64_t m = 0; m < c.rows; ++m) {
#pragma omp simd
        for (int64_t n = 0; n < c.columns; ++n) store(to[m * c.row + n], from[m * c.columns + n]);
    }
}

}  // namespace plimsoll::cpu
