#include "dist/cad/key_sums.h"

#include <vector>

#include "kernels/residual.h"

namespace plimsoll {

void fill_rows_zero(Tensor tensor, std::span<const RowRun> rows, const Exec& exec) {
    for (const RowRun& run : rows) fill_zero(tensor.slice_rows(run.row, run.count), exec);
}

void store_key_gradients(Tensor to, Tensor sums, std::span<const RowRun> rows, GrowingMemory& rounded,
                         const Exec& exec) {
    Tensor from = sums;
    if (to.dtype != sums.dtype) {
        from = rounded.tensor(sums.shape, to.dtype, exec);
        for (const RowRun& run : rows)
            convert(as_matrix(from.slice_rows(run.row, run.count)), as_matrix(sums.slice_rows(run.row, run.count)),
                    exec);
    }
    std::vector<CopyRect> rects;
    const int64_t size = size_of(to.dtype), width = to.row_elements() * size;
    for (const RowRun& run : rows)
        rects.push_back({to.slice_rows(run.row, run.count).data, to.row_stride * size,
                         from.slice_rows(run.row, run.count).data, width, width, run.count});
    copy_rects(rects, exec);
}

}  // namespace plimsoll
