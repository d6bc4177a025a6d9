// All threads pack some columns of b over a range of K; then each takes rows of a, packs them, and multiplies panels:
// those of b stay in the first-level cache while those of a, in the second, pass.
#include "kernels/cpu/avx512/gemm.h"

#include <algorithm>

#include "kernels/cpu/avx512/panels.h"
#include "kernels/cpu/ranges.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu::avx512 {
namespace {

constexpr int64_t kDepth = 512;              // of K at a time
constexpr int64_t kWidth = 1024;             // columns of b that are packed together
constexpr int64_t kHeight = 6 * kPanelRows;  // rows of a, at most
constexpr int64_t kLeastRows = 512;          // of c: fewer do not repay packing b, oneDNN is the faster one
constexpr int64_t kRowsTogether = 16;        // rows of b that a thread packs at a time

const float* element(const Matrix& m, int64_t i, int64_t j) {
    return static_cast<const float*>(m.data) + i * m.row + j * m.column;
}

}  // namespace

bool takes(const Matrix& c, const Matrix& a, const Matrix& b) {
    const bool contiguous = (a.row == 1 || a.column == 1) && (b.row == 1 || b.column == 1);
    return c.dtype == DType::kF32 && a.dtype == DType::kF32 && contiguous && c.rows >= kLeastRows &&
           c.columns >= kPanelColumns / 2;
}

void gemm(Matrix c, Matrix a, Matrix b, bool accumulate, const float* bias, const Exec& exec) {
    const int64_t M = c.rows, N = c.columns, K = a.columns;
    // As many parts of rows for every thread, in whole panels.
    const int64_t shares = exec.threads * parts(M, exec.threads * kHeight);
    const int64_t height = round_up(parts(M, shares), kPanelRows);
    float* const right = workspace<struct RightPanels, float>(parts(std::min(N, kWidth), kPanelColumns) *
                                                              kPanelColumns * std::min(K, kDepth));
#pragma omp parallel num_threads(exec.threads) if (worth_threads(M * N * K / 1024))
    {
        float* const left = workspace<struct LeftPanels, float>(kHeight / kPanelRows * kPanelApart * kDepth);
        for (int64_t n0 = 0; n0 < N; n0 += kWidth)
            for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
                const int64_t width = std::min(kWidth, N - n0), depth = std::min(kDepth, K - k0);
                const int64_t panel = kPanelColumns * depth;  // of b
                if (b.column == 1) {
#pragma omp for schedule(static)
                    for (int64_t k = 0; k < depth; k += kRowsTogether)
                        pack_right(right + k * kPanelColumns, panel, element(b, k0 + k, n0), 1, b.row, width,
                                   std::min(kRowsTogether, depth - k));
                } else {
#pragma omp for schedule(static)
                    for (int64_t n = 0; n < width; n += kPanelColumns)
                        pack_right(right + n / kPanelColumns * panel, panel, element(b, k0, n0 + n), b.column, 1,
                                   std::min(kPanelColumns, width - n), depth);
                }
#pragma omp for schedule(dynamic)
                for (int64_t m0 = 0; m0 < M; m0 += height) {
                    const int64_t rows = std::min(height, M - m0);
                    pack_left(left, kPanelApart * depth, element(a, m0, k0), a.row, a.column, rows, depth);
                    for (int64_t j = 0; j < width; j += kPanelColumns)
                        for (int64_t i = 0; i < rows; i += kPanelRows)
                            multiply(static_cast<float*>(c.data) + (m0 + i) * c.row + n0 + j, c.row,
                                     left + i / kPanelRows * kPanelApart * depth, right + j / kPanelColumns * panel,
                                     depth, std::min(kPanelRows, rows - i), std::min(kPanelColumns, width - j),
                                     k0 == 0 && !accumulate, k0 == 0 && bias ? bias + n0 + j : nullptr);
                }
            }
    }
}

}  // namespace plimsoll::cpu::avx512
