// Sums over rows, one per column: the gradients of gains and biases.
#pragma once

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

inline constexpr int kRowSumColumns = 32, kRowSumRows = 8;  // of a block

// partial[range][c] = sum of term(n, c) over the range's rows: 8 interleaved sums, folded in order. With four blocks
// per multiprocessor; ptxas, left alone, aims at eight, and spills where a term divides to find its element.
template <class Term>
__global__ void __launch_bounds__(kRowSumColumns* kRowSumRows, 4)
    row_range_sums_kernel(float* partial, Term term, int64_t N, int64_t C) {
    PLIMSOLL_SHARED(float, sums, [kRowSumRows][kRowSumColumns]);
    const int64_t c = static_cast<int64_t>(blockIdx.x) * kRowSumColumns + threadIdx.x;
    const int64_t rows = (N + kRowRanges - 1) / kRowRanges, begin = blockIdx.y * rows;
    const int64_t end = begin + rows < N ? begin + rows : N;
    float sum = 0;
    if (c < C)
        for (int64_t n = begin + threadIdx.y; n < end; n += kRowSumRows) sum += term(n, c);
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) return;
    for (int y = 1; y < kRowSumRows; ++y) sum += sums[y][threadIdx.x];
    partial[static_cast<int64_t>(blockIdx.y) * C + c] = sum;
}

// out[c] = (or +=) sum over ranges of partial[range * stride + c]: eight sums of neighbouring ranges, folded in order.
// One thread a column would wait for memory as often as there are ranges.
template <class Result>
__global__ void __launch_bounds__(kRowSumColumns* kRowSumRows)
    fold_ranges_kernel(Result* out, const float* partial, int64_t stride, int ranges, int64_t C, bool accumulate) {
    PLIMSOLL_SHARED(float, sums, [kRowSumRows][kRowSumColumns]);
    const int64_t c = static_cast<int64_t>(blockIdx.x) * kRowSumColumns + threadIdx.x;
    const int each = ranges / kRowSumRows, begin = static_cast<int>(threadIdx.y) * each;
    float sum = 0;
    if (c < C) {
#pragma unroll 8
        for (int range = begin; range < begin + each; ++range) sum += partial[range * stride + c];
    }
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || c >= C) return;
    for (int y = 1; y < kRowSumRows; ++y) sum += sums[y][threadIdx.x];
    out[c] = static_cast<Result>(accumulate ? static_cast<float>(out[c]) + sum : sum);
}

// `ranges` a multiple of kRowSumRows.
template <class Result>
void fold_ranges(Result* out, const float* partial, int64_t stride, int ranges, int64_t C, Write write,
                 const Exec& exec) {
    PLIMSOLL_LAUNCH(fold_ranges_kernel<Result>, dim3(blocks_for(C, kRowSumColumns)), dim3(kRowSumColumns, kRowSumRows),
                    0, exec.cuda->stream(), out, partial, stride, ranges, C, write == Write::kAccumulate);
}

// out[c] = (or +=) sum over rows n of term(n, c). Uses the workspace: kRowRanges * C floats.
template <class Result, class Term>
void row_sums(Result* out, Term term, int64_t N, int64_t C, Write write, const Exec& exec) {
    float* partial = exec.cuda->workspace<float>(kRowRanges * C);
    PLIMSOLL_LAUNCH(row_range_sums_kernel<Term>, dim3(blocks_for(C, kRowSumColumns), kRowRanges),
                    dim3(kRowSumColumns, kRowSumRows), 0, exec.cuda->stream(), partial, term, N, C);
    fold_ranges(out, partial, C, kRowRanges, C, write, exec);
    launch_check("row_sums");
}

// The element itself, of (N, C) with a row stride.
template <class T>
struct Element {
    const T* values;
    int64_t row_stride;
    PLIMSOLL_DEVICE float operator()(int64_t n, int64_t c) const {
        return static_cast<float>(values[n * row_stride + c]);
    }
};

}  // namespace plimsoll::cuda
