// The norm of all gradients.
#pragma once

#include <span>

#include "kernels/exec.h"

namespace plimsoll {

// sum_i x_i^2 over a 1-D fp32 or fp64 tensor, in fp64: blocks of kNormBlock elements, each summed in a fixed order,
// then block by block. Bits do not depend on the number of threads. Infinite or NaN if an element is.
double sum_of_squares(Tensor x, const Exec& exec);

inline constexpr int64_t kNormBlock = 65536;

// Sums of squares of a matrix by blocks of kSquaresSide x kSquaresSide elements, those at its ends smaller, in fp64:
// what products leave of the gradients they write (matmul_backward_weight), so that their norm need not read them
// again. On the CPU only.
inline constexpr int64_t kSquaresSide = 32;
// Of the sums of a (M, N) matrix.
Shape squares_shape(Shape matrix);

// squares (squares_shape(x.shape)) of x (M, N), contiguous, in fp32 or fp64. Bits depend on a block's elements alone.
void block_squares(Tensor squares, Tensor x, const Exec& exec);
// Again those of the blocks that hold `rows`, after these have changed. A row may come several times.
// Throws Error for rows that x has not.
void block_squares(Tensor squares, Tensor x, std::span<const int32_t> rows, const Exec& exec);

}  // namespace plimsoll
