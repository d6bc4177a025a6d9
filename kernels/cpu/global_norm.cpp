#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

// Of `rows` x `columns` elements, at most kSquaresSide of each: column by column, then by halves of a row.
template <class R>
double block_sum(const R* from, int64_t rows, int64_t columns, int64_t stride) {
    double lane[kSquaresSide] = {};
    for (int64_t r = 0; r < rows; ++r, from += stride) {
#pragma omp simd
        for (int64_t c = 0; c < columns; ++c) lane[c] += static_cast<double>(from[c]) * static_cast<double>(from[c]);
    }
    fold_lanes<kSquaresSide / 2>(lane, [](double a, double b) { return a + b; });
    return lane[0];
}

// Those of a row of blocks.
template <class R>
void row_of_blocks(double* squares, const R* x, int64_t row, int64_t rows, int64_t columns) {
    const int64_t first = row * kSquaresSide, count = std::min(kSquaresSide, rows - first);
    for (int64_t c = 0; c < columns; c += kSquaresSide)
        *squares++ = block_sum(x + first * columns + c, count, std::min(kSquaresSide, columns - c), columns);
}

// Of the rows of blocks for which wanted(row).
template <class F>
void rows_of_blocks(Tensor squares, Tensor x, F&& wanted, const Exec& exec) {
    const int64_t M = x.shape[0], N = x.shape[1], down = squares.shape[0], across = squares.shape[1];
    auto* const sums = squares.ptr<double>();
    const auto run = [&]<class R>() {
        const R* const from = x.ptr<R>();
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic) if (worth_threads(M * N))
        for (int64_t row = 0; row < down; ++row)
            if (wanted(row)) row_of_blocks(sums + row * across, from, row, M, N);
    };
    x.dtype == DType::kF64 ? run.template operator()<double>() : run.template operator()<float>();
}

}  // namespace

double sum_of_squares(Tensor x, const Exec& exec) {
    const int64_t count = x.elements(), blocks = (count + kNormBlock - 1) / kNormBlock;
    double* partial = workspace<struct SquareSums, double>(blocks);
    const auto run = [&]<class R>() {
        const R* data = x.ptr<R>();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(count))
        for (int64_t block = 0; block < blocks; ++block) {
            const R* from = data + block * kNormBlock;
            partial[block] = lane_sum<double>(
                std::min(kNormBlock, count - block * kNormBlock),
                [&](int64_t i) {
                    const auto value = static_cast<double>(from[i]);
                    return value * value;
                },
                from);
        }
    };
    x.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += partial[block];
    return sum;
}

void block_squares(Tensor squares, Tensor x, const Exec& exec) {
    rows_of_blocks(
        squares, x, [](int64_t) { return true; }, exec);
}

void block_squares(Tensor squares, Tensor x, std::span<const int32_t> rows, const Exec& exec) {
    bool* const changed = workspace<struct ChangedBlocks, bool>(squares.shape[0]);
    std::fill_n(changed, squares.shape[0], false);
    for (const int32_t row : rows) changed[row / kSquaresSide] = true;
    rows_of_blocks(
        squares, x, [&](int64_t row) { return changed[row]; }, exec);
}

}  // namespace plimsoll::cpu
