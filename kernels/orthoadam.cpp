#include "kernels/orthoadam.h"

#include "kernels/error.h"
#include "kernels/muon.h"
#include "kernels/residual.h"

namespace plimsoll {

void orthoadam_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, Tensor scratch,
                    const MatrixBasis& basis, const UpdateFactors* factors, const Exec& exec) {
    check(param.shape.rank() == 2 && scratch.elements() >= param.elements(),
          "orthoadam_step: wants a matrix and scratch memory of its size, got {} and {}", param.shape, scratch.shape);
    const Tensor direction = scratch.slice_rows(0, param.elements()).reshape(param.shape);
    convert(direction, grad, exec);
    if (basis.rows) rotate(direction, Axis::kRows, Turn::kInto, *basis.rows, exec);
    if (basis.columns) rotate(direction, Axis::kColumns, Turn::kInto, *basis.columns, exec);
    adam_direction(direction, m, v, factors, exec);
    if (basis.columns) rotate(direction, Axis::kColumns, Turn::kBack, *basis.columns, exec);
    if (basis.rows) rotate(direction, Axis::kRows, Turn::kBack, *basis.rows, exec);
    apply_direction(param, direction, working, factors, exec);
}

}  // namespace plimsoll
