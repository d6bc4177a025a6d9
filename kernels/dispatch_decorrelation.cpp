// Checks at the door, and the choice of device, for decorrelation.
#include "kernels/decorrelation.h"
#include "kernels/dispatch.h"

namespace plimsoll {

void decorrelation_backward(Tensor dh, Tensor sum, Tensor squares, Tensor h, std::span<const int32_t> positions,
                            double scale, const Exec& exec) {
    constexpr const char* kOp = "decorrelation_backward";
    check_device(exec, kOp);
    check(h.shape.rank() == 2 && dh.shape == h.shape && dh.dtype == h.dtype && h.contiguous() && dh.contiguous(),
          "{}: h and dh must be (N, C) of one dtype, contiguous; got {} {} and {} {}", kOp, name_of(h.dtype), h.shape,
          name_of(dh.dtype), dh.shape);
    check(squares.shape == Shape{h.shape[0]} && squares.dtype == h.dtype, "{}: squares {} {} for h {} {}", kOp,
          name_of(squares.dtype), squares.shape, name_of(h.dtype), h.shape);
    check(sum.shape == Shape{1} && sum.dtype == DType::kF64, "{}: sum must be fp64 (1), got {} {}", kOp,
          name_of(sum.dtype), sum.shape);
    check(static_cast<int64_t>(positions.size()) == h.shape[0], "{}: {} positions for {} rows", kOp, positions.size(),
          h.shape[0]);
    if (ids_are_readable(exec))
        for (size_t n = 0; n < positions.size(); ++n)
            if (positions[n] < 0 || static_cast<size_t>(positions[n]) > n)
                check(false, "{}: positions[{}] is {}, its document would begin outside of the batch", kOp, n,
                      positions[n]);
    PLIMSOLL_RUN(exec, decorrelation_backward(dh, sum, squares, h, positions, scale, exec));
}

}  // namespace plimsoll
