// Shapes of the linear layer's products are checked here, at the door; kernels trust them.
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

// out (N, O), x (N, I) and weight (O, I), or their gradients. Any size may be zero.
void check_matmul(const char* op, Tensor out, Tensor x, Tensor weight) {
    const bool two = out.shape.rank() == 2 && x.shape.rank() == 2 && weight.shape.rank() == 2;
    check(two && x.shape[0] == out.shape[0] && weight.shape[0] == out.shape[1] && weight.shape[1] == x.shape[1] &&
              weight.contiguous(),
          "{}: (N, O) {}, (N, I) {}, (O, I) {} do not belong together", op, out.shape, x.shape, weight.shape);
}

void check_dtypes(const char* op, Tensor result, Tensor a, Tensor b) {
    check(a.dtype == b.dtype && (result.dtype == a.dtype || result.dtype == accumulator_of(a.dtype)),
          "{}: operands in {} and {}, result in {}", op, name_of(a.dtype), name_of(b.dtype), name_of(result.dtype));
}

// `out` or its gradient.
void check_bias(const char* op, Tensor bias, Tensor out) {
    check(!bias || (bias.shape == Shape{out.shape[1]} && bias.dtype == accumulator_of(out.dtype)),
          "{}: bias {} in {} for {} columns", op, bias.shape, name_of(bias.dtype), out.shape[1]);
}

void check_activation(const char* op, Tensor act, Tensor up, Activation kind) {
    check(act.shape == Shape{up.shape[0], up.shape[1] / inputs_per_output(kind)} && act.dtype == up.dtype &&
              act.contiguous() && up.contiguous(),
          "{}: {} outputs from {} inputs", op, act.shape, up.shape);
}

}  // namespace

void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec) {
    check_device(exec, "matmul_forward");
    check_matmul("matmul_forward", out, x, weight);
    check_dtypes("matmul_forward", out, x, weight);
    check_bias("matmul_forward", bias, out);
    PLIMSOLL_RUN(exec, matmul_forward(out, x, weight, bias, exec));
}

void matmul_activation_forward(Tensor act, Tensor up, Tensor x, Tensor weight, Tensor bias, Activation kind,
                               const Exec& exec) {
    check_device(exec, "matmul_activation_forward");
    check_matmul("matmul_activation_forward", up, x, weight);
    check_dtypes("matmul_activation_forward", up, x, weight);
    check_bias("matmul_activation_forward", bias, up);
    check_activation("matmul_activation_forward", act, up, kind);
    check(act.data != up.data || act.elements() == 0 || slope_follows_from_output(kind),
          "matmul_activation_forward: up is act's memory, but the activation's slope wants it");
    PLIMSOLL_RUN(exec, matmul_activation_forward(act, up, x, weight, bias, kind, exec));
}

void matmul_activation_backward(Tensor dup, Tensor dact, Tensor dout, Tensor weight, Tensor up, Activation kind,
                                const Exec& exec) {
    check_device(exec, "matmul_activation_backward");
    check_matmul("matmul_activation_backward", dout, dact, weight);
    check_dtypes("matmul_activation_backward", dact, dout, weight);
    check_activation("matmul_activation_backward", dact, up, kind);
    check(dup.shape == up.shape && dup.dtype == up.dtype, "matmul_activation_backward: dup {} for up {}", dup.shape,
          up.shape);
    PLIMSOLL_RUN(exec, matmul_activation_backward(dup, dact, dout, weight, up, kind, exec));
}

void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec) {
    check_device(exec, "matmul_backward_input");
    check_matmul("matmul_backward_input", dout, dx, weight);
    check_dtypes("matmul_backward_input", dx, dout, weight);
    PLIMSOLL_RUN(exec, matmul_backward_input(dx, dout, weight, write, exec));
}

void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec,
                            Tensor squares) {
    check_device(exec, "matmul_backward_weight");
    check_matmul("matmul_backward_weight", dout, x, dweight);
    check_dtypes("matmul_backward_weight", dweight, dout, x);
    check(dweight.dtype == accumulator_of(x.dtype), "matmul_backward_weight: gradient in {} for operands in {}",
          name_of(dweight.dtype), name_of(x.dtype));
    check_bias("matmul_backward_weight", dbias, dout);
    if (!squares) {
        PLIMSOLL_RUN(exec, matmul_backward_weight(dweight, dbias, dout, x, write, exec));
    }
    check_on_cpu(exec, "matmul_backward_weight with sums of squares");
    check_squares("matmul_backward_weight", squares, dweight);
    PLIMSOLL_TRACE(exec, matmul_backward_weight(dweight, dbias, dout, x, write, exec));
    cpu::matmul_backward_weight(dweight, dbias, dout, x, write, exec, squares);
}

}  // namespace plimsoll
