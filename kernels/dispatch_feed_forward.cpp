// An op made of others: what it is made of checks shapes and chooses the device.
#include "kernels/cpu/feed_forward.h"
#include "kernels/dispatch.h"
#include "kernels/feed_forward.h"

namespace plimsoll {
namespace {

void check_shape(const char* op, const char* name, Tensor t, Shape shape) {
    check(!t || (t.shape == shape && t.contiguous()), "{}: {} is {}, wants {}", op, name, t.shape, shape);
}
// Where no other op looks: shapes, and the one split of dtypes that is fused.
void check_tensors(const char* op, const FeedForwardTensors& t, Activation kind) {
    const int64_t N = t.sum.shape[0], C = t.sum.shape[1], F = t.act.shape[1], U = F * inputs_per_output(kind);
    for (const auto& [name, tensor] : {std::pair{"x", t.x},
                                       {"branch", t.branch},
                                       {"sum", t.sum},
                                       {"normed", t.normed},
                                       {"product", t.product},
                                       {"out", t.out}})
        check_shape(op, name, tensor, {N, C});
    check_shape(op, "up", t.up, {N, U}), check_shape(op, "up_weight", t.up_weight, {U, C});
    check_shape(op, "act", t.act, {N, F}), check_shape(op, "down_weight", t.down_weight, {C, F});
    for (const Tensor& t : {t.branch, t.up, t.up_weight, t.act, t.down_weight, t.product})
        check(!t || t.dtype == DType::kBF16, "{}: operands in bf16 and {}", op, name_of(t.dtype));
}

}  // namespace

void feed_forward_forward(const FeedForwardTensors& t, Activation kind, NormSpec spec, const Exec& exec) {
    if (cpu::feed_forward_is_fused(t, exec)) {
        check_tensors("feed_forward_forward", t, kind);
        PLIMSOLL_TRACE(exec, feed_forward_forward(t, kind, spec, exec));
        return cpu::feed_forward_forward(t, kind, spec, exec);
    }
    residual_norm_forward(t.sum, t.normed, t.mean, t.rstd, t.x, t.branch, t.gain, t.gain_bias, spec, exec);
    matmul_activation_forward(t.act, t.up, t.normed, t.up_weight, t.up_bias, kind, exec);
    matmul_forward(t.product, t.act, t.down_weight, t.down_bias, exec);
    residual_forward(t.out, t.sum, t.product, exec);
}

void feed_forward_backward(const FeedForwardGradients& d, const FeedForwardTensors& t, Activation kind, NormSpec spec,
                           Write write, const Exec& exec) {
    if (cpu::feed_forward_is_fused(t, exec)) {
        check_tensors("feed_forward_backward", t, kind);
        PLIMSOLL_TRACE(exec, feed_forward_backward(d, t, kind, spec, write, exec));
        return cpu::feed_forward_backward(d, t, kind, spec, write, exec);
    }
    matmul_activation_backward(d.dup, d.dact, d.dout, t.down_weight, t.up, kind, exec);
    matmul_backward_input(d.dnormed, d.dup, t.up_weight, Write::kOverwrite, exec);
    stream_norm_backward(d.dx, d.dbranch, d.dgain, d.dbias, d.dnormed, t.sum, t.gain, t.mean, t.rstd, spec,
                         Write::kAccumulate, write, exec);
}

}  // namespace plimsoll
