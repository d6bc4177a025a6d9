// The sum of what ranks hold, in their order.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// own = ((part 0 + part 1) + part 2) + ..., elementwise. `own` (n) is part `rank`; `others` (R - 1, n) are the parts of
// the other ranks in their order. Both fp32 or both fp64, contiguous; n may be 0. Sums are made in the dtype in this
// order on every device, so equal parts give equal bits.
void rank_sum(Tensor own, Tensor others, int64_t rank, const Exec& exec);

}  // namespace plimsoll
