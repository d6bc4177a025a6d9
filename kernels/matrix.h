// A matrix in memory, as the libraries behind matmul.h take it.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// Element (i, j) is data[i * row + j * column]. One of the strides is 1. Transposition swaps them.
struct Matrix {
    void* data;
    DType dtype;
    int64_t rows, columns;
    int64_t row, column;
};

inline Matrix matrix(const Tensor& t) {
    return {t.data, t.dtype, t.shape[0], t.shape[1], t.row_stride, 1};
}
constexpr Matrix transposed(Matrix m) {
    return {m.data, m.dtype, m.columns, m.rows, m.column, m.row};
}

}  // namespace plimsoll
