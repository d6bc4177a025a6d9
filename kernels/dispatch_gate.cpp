// Checks at the door, and the choice of device, for gates.
#include <cmath>

#include "kernels/dispatch.h"
#include "kernels/gate_function.h"

namespace plimsoll {
namespace {

// `out`: the output, or its gradient. Row strides are free.
void check_gate(const char* op, Tensor out, Tensor y, Tensor z) {
    check(y.shape.rank() == 3 && out.shape == y.shape && out.dtype == y.dtype,
          "{}: y and the output or its gradient must be (N, H, HS) of one dtype, got {} {} and {} {}", op,
          name_of(y.dtype), y.shape, name_of(out.dtype), out.shape);
    const int rank = z.shape.rank();
    const auto fits = [&](int of_z, int of_y) {
        return z.shape[of_z] == y.shape[of_y] || (of_y > 0 && z.shape[of_z] == 1);
    };
    const bool constant = rank == 2 && fits(0, 1) && fits(1, 2) && z.dtype == accumulator_of(y.dtype),
               per_token = rank == 3 && fits(0, 0) && fits(1, 1) && fits(2, 2) && z.dtype == y.dtype;
    check(z.contiguous() && (constant || per_token),
          "{}: z {} {} for y {} {}; wanted (N, H or 1, HS or 1) in y's dtype or (H or 1, HS or 1) in {}, contiguous",
          op, name_of(z.dtype), z.shape, name_of(y.dtype), y.shape, name_of(accumulator_of(y.dtype)));
}

void check_alike(const char* op, const char* name, Tensor a, Tensor like) {
    check(a.shape == like.shape && a.dtype == like.dtype, "{}: {} is {} {}, must be {} {}", op, name, name_of(a.dtype),
          a.shape, name_of(like.dtype), like.shape);
}

void check_heads(const char* op, Tensor z) {
    check(z.shape.rank() == 2 && z.shape[1] > 0 && z.contiguous(), "{}: wants (N, NH), contiguous, got {}", op,
          z.shape);
}

}  // namespace

double gate_value(GateFunction function, double z) {
    double value = 0;
    dispatch_gate({.function = function},
                  [&]<class Function, class Combination>() { value = Function::value(z, 1 / (1 + std::exp(-z))); });
    return value;
}

void gate_forward(Tensor out, Tensor y, Tensor z, GateSpec spec, const Exec& exec) {
    check_device(exec, "gate_forward");
    check_gate("gate_forward", out, y, z);
    PLIMSOLL_RUN(exec, gate_forward(out, y, z, spec, exec));
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, GateSpec spec, Write write,
                   const Exec& exec) {
    check_device(exec, "gate_backward");
    check_gate("gate_backward", dout, y, z);
    check_alike("gate_backward", "dy", dy, y);
    check_alike("gate_backward", "dz", dz, z);
    check(dz.contiguous(), "gate_backward: dz {} with row stride {} is not contiguous", dz.shape, dz.row_stride);
    PLIMSOLL_RUN(exec, gate_backward(dy, dz, dout, y, z, spec, write, exec));
}

void head_softmax_forward(Tensor out, Tensor z, const Exec& exec) {
    check_device(exec, "head_softmax_forward");
    check_heads("head_softmax_forward", z);
    check_alike("head_softmax_forward", "out", out, z);
    PLIMSOLL_RUN(exec, head_softmax_forward(out, z, exec));
}

void head_softmax_backward(Tensor dz, Tensor dout, Tensor out, const Exec& exec) {
    check_device(exec, "head_softmax_backward");
    check_heads("head_softmax_backward", out);
    check_alike("head_softmax_backward", "dz", dz, out);
    check_alike("head_softmax_backward", "dout", dout, out);
    PLIMSOLL_RUN(exec, head_softmax_backward(dz, dout, out, exec));
}

}  // namespace plimsoll
