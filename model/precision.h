// The dtypes of a run.
#pragma once

#include "kernels/dtype.h"

namespace plimsoll {

// The residual stream, its gradient, norm statistics and parameter gradients are in stream(); matmul operands and other
// activations in `compute`.
struct Precision {
    DType compute = DType::kF32;
    DType stream() const { return accumulator_of(compute); }
};

}  // namespace plimsoll
