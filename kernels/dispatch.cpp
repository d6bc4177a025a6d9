// The only place where the device chooses a function. Shapes are checked here, at the door; kernels trust them.
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

void check_norm(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec) {
    check(x.shape.rank() == 2, "norm: x must be (N, C), got {}", x.shape);
    const int64_t N = x.shape[0], C = x.shape[1];
    check(out.shape == x.shape && out.contiguous() && x.contiguous(),
          "norm: x {} and out {} must be equal and contiguous", x.shape, out.shape);
    check(gain.shape == Shape{C} && rstd.shape == Shape{N}, "norm: x {} wants gain ({}) and rstd ({}), got {} and {}",
          x.shape, C, N, gain.shape, rstd.shape);
    check(!bias || bias.shape == gain.shape, "norm: bias {} wants gain's shape {}", bias.shape, gain.shape);
    check(!mean || mean.shape == rstd.shape, "norm: mean {} wants rstd's shape {}", mean.shape, rstd.shape);
    check(static_cast<bool>(mean) == (spec.kind == NormKind::kLayer), "norm: LayerNorm keeps a mean, RMSNorm has none");
}

void check_norm_backward(const char* op, Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain,
                         Tensor mean, Tensor rstd, NormSpec spec) {
    check_norm(dout, mean, rstd, x, gain, dbias, spec);
    check(dx.shape == x.shape && dx.contiguous() && dgain.shape == gain.shape, "{}: dx {} for x {}", op, dx.shape,
          x.shape);
}

}  // namespace

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec) {
    check_device(exec, "norm_forward");
    check_norm(out, mean, rstd, x, gain, bias, spec);
    PLIMSOLL_RUN(exec, norm_forward(out, mean, rstd, x, gain, bias, spec, exec));
}

void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec spec, Write dx_write, Write write, const Exec& exec) {
    check_device(exec, "norm_backward");
    check_norm_backward("norm_backward", dx, dgain, dbias, dout, x, gain, mean, rstd, spec);
    PLIMSOLL_RUN(exec, norm_backward(dx, dgain, dbias, dout, x, gain, mean, rstd, spec, dx_write, write, exec));
}

void residual_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor sum, Tensor gain,
                            Tensor mean, Tensor rstd, NormSpec spec, Write dx_write, Write write, const Exec& exec) {
    check_device(exec, "residual_norm_backward");
    check_norm_backward("residual_norm_backward", dx, dgain, dbias, dout, sum, gain, mean, rstd, spec);
    check(dbranch.shape == dout.shape && dbranch.dtype == dout.dtype && dbranch.contiguous(),
          "residual_norm_backward: dbranch {} {} for dout {} {}", name_of(dbranch.dtype), dbranch.shape,
          name_of(dout.dtype), dout.shape);
    PLIMSOLL_RUN(exec, residual_norm_backward(dx, dbranch, dgain, dbias, dout, sum, gain, mean, rstd, spec, dx_write,
                                              write, exec));
}

}  // namespace plimsoll
