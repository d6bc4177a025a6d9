// Apart from the other dispatchers: a program that only communicates links nothing else of the kernels.
#include "kernels/dispatch.h"

namespace plimsoll {

void rank_sum(Tensor own, Tensor others, int64_t rank, const Exec& exec) {
    check_device(exec, "rank_sum");
    check(own.shape.rank() == 1 && others.shape.rank() == 2 && others.shape[1] == own.shape[0] && own.contiguous() &&
              others.contiguous() && 0 <= rank && rank <= others.shape[0],
          "rank_sum: own {} is part {}, others {}; wanted (n) and (ranks - 1, n), contiguous", own.shape, rank,
          others.shape);
    check((own.dtype == DType::kF32 || own.dtype == DType::kF64) && others.dtype == own.dtype,
          "rank_sum: {} and {}; sums are fp32 or fp64", name_of(own.dtype), name_of(others.dtype));
    if (own.elements() == 0 || others.rows() == 0) return;
    PLIMSOLL_RUN(exec, rank_sum(own, others, rank, exec));
}

}  // namespace plimsoll
