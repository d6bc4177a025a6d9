// Gradients of keys and values as sums of what several ranks have of them.
#pragma once

#include <span>

#include "dist/cad/row_exchange.h"

namespace plimsoll {

// (rows, heads, channels) of a contiguous tensor as (rows, heads * channels).
inline Tensor as_matrix(Tensor t) {
    return t.reshape({t.rows(), t.row_elements()});
}

// Rows of a contiguous tensor = 0.
void fill_rows_zero(Tensor tensor, std::span<const RowRun> rows, const Exec& exec);

// Rows of `to`, in the dtype and with the row stride of a micro batch, = those of `sums`, rounded. `rounded` is memory
// for as many rows as `sums` has, used where the dtypes differ.
void store_key_gradients(Tensor to, Tensor sums, std::span<const RowRun> rows, GrowingMemory& rounded,
                         const Exec& exec);

}  // namespace plimsoll
