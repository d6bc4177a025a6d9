// Checks at the door for biases of keys.
#include "kernels/dispatch.h"
#include "kernels/key_bias.h"

namespace plimsoll {
namespace {

void check_key_bias(const char* op, Tensor bias, Tensor v, Tensor w) {
    check(v.shape.rank() == 3 && w.shape.rank() == 2 && v.shape[2] == w.shape[1] && v.shape[1] > 0 &&
              w.shape[0] % v.shape[1] == 0,
          "{}: values {} must be (N, NKV, HS), w {} (NH, HS) with NH a multiple of NKV", op, v.shape, w.shape);
    const DType sums = accumulator_of(v.dtype);
    check(w.dtype == sums && w.contiguous() && bias.dtype == sums && bias.contiguous() &&
              bias.shape == Shape{v.shape[0], w.shape[0]},
          "{}: w {} in {} and biases {} in {} must be ({}, {}) and ({}, {}) in {}", op, w.shape, name_of(w.dtype),
          bias.shape, name_of(bias.dtype), w.shape[0], v.shape[2], v.shape[0], w.shape[0], name_of(sums));
}

}  // namespace

void key_bias_forward(Tensor bias, Tensor v, Tensor w, const Exec& exec) {
    check_device(exec, "key_bias_forward");
    check_key_bias("key_bias_forward", bias, v, w);
    PLIMSOLL_RUN(exec, key_bias_forward(bias, v, w, exec));
}

void key_bias_backward(Tensor dv, Tensor dw, Tensor dbias, Tensor v, Tensor w, Write write, const Exec& exec) {
    check_device(exec, "key_bias_backward");
    check_key_bias("key_bias_backward", dbias, v, w);
    check(dv.shape == v.shape && dv.dtype == v.dtype && dw.shape == w.shape && dw.dtype == w.dtype && dw.contiguous(),
          "key_bias_backward: dv {} and dw {} for v {} and w {}", dv.shape, dw.shape, v.shape, w.shape);
    PLIMSOLL_RUN(exec, key_bias_backward(dv, dw, dbias, v, w, write, exec));
}

}  // namespace plimsoll
