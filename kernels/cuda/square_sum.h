// A sum of squares that stays on the device, for ops that go on with it there.
#pragma once

#include "kernels/exec.h"

namespace plimsoll::cuda {

// Where sum_of_squares of `count` > 0 elements will lie: in the workspace, until the next op that asks for it.
const double* square_sum_on_device(const float* x, int64_t count, const Exec& exec);

}  // namespace plimsoll::cuda
