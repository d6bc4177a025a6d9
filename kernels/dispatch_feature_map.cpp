// Checks at the door, and the choice of device, for kernels of queries and keys.
#include "kernels/dispatch.h"
#include "kernels/feature_map.h"

namespace plimsoll {
namespace {

void check_rows(const char* op, Tensor a, Tensor x) {
    check(x.shape.rank() == 3 && a.shape == x.shape && a.dtype == x.dtype,
          "{}: rows must be (N, H, HS) of one dtype, got {} {} and {} {}", op, name_of(a.dtype), a.shape,
          name_of(x.dtype), x.shape);
}

}  // namespace

void elu1_forward(Tensor out, Tensor x, const Exec& exec) {
    check_device(exec, "elu1_forward");
    check_rows("elu1_forward", out, x);
    PLIMSOLL_RUN(exec, elu1_forward(out, x, exec));
}

void elu1_backward(Tensor dx, Tensor dout, Tensor out, const Exec& exec) {
    check_device(exec, "elu1_backward");
    check_rows("elu1_backward", dx, out);
    check_rows("elu1_backward", dout, out);
    PLIMSOLL_RUN(exec, elu1_backward(dx, dout, out, exec));
}

}  // namespace plimsoll
