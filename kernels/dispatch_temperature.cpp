// Checks at the door, and the choice of device, for temperatures.
#include "kernels/dispatch.h"
#include "kernels/temperature.h"

namespace plimsoll {
namespace {

void check_like(const char* op, const char* name, Tensor t, DType dtype, Shape shape) {
    check(t.shape == shape && t.dtype == dtype && t.contiguous(),
          "{}: {} must be {} {}, contiguous; got {} {}, row stride {}", op, name, name_of(dtype), shape,
          name_of(t.dtype), t.shape, t.row_stride);
}

// `out`: the output, or its gradient. Row strides are free.
void check_temperature(const char* op, Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                       const Exec& exec) {
    check(x.shape.rank() == 3 && out.shape == x.shape && out.dtype == x.dtype,
          "{}: x and the output or its gradient must be (N, H, HS) of one dtype, got {} {} and {} {}", op,
          name_of(x.dtype), x.shape, name_of(out.dtype), out.shape);
    check(z || alpha, "{}: wants z, alpha or both", op);
    if (z) check_like(op, "z", z, x.dtype, {x.shape[0], x.shape[1]});
    if (alpha) check_like(op, "alpha", alpha, accumulator_of(x.dtype), {x.shape[1]});
    check(static_cast<int64_t>(positions.size()) == x.shape[0], "{}: {} positions for {} rows", op, positions.size(),
          x.shape[0]);
    if (!ids_are_readable(exec)) return;
    for (size_t n = 0; n < positions.size(); ++n)
        if (positions[n] < 0) check(false, "{}: positions[{}] is {}, must not be negative", op, n, positions[n]);
}

}  // namespace

void temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                         const Exec& exec) {
    check_device(exec, "temperature_forward");
    check_temperature("temperature_forward", out, x, z, alpha, positions, exec);
    PLIMSOLL_RUN(exec, temperature_forward(out, x, z, alpha, positions, exec));
}

void temperature_backward(Tensor dx, Tensor dz, Tensor dalpha, Tensor dtau, Tensor dout, Tensor x, Tensor z,
                          Tensor alpha, std::span<const int32_t> positions, Write write, const Exec& exec) {
    constexpr const char* kOp = "temperature_backward";
    check_device(exec, kOp);
    check_temperature(kOp, dout, x, z, alpha, positions, exec);
    check(dx.shape == x.shape && dx.dtype == x.dtype, "{}: dx {} {} for x {} {}", kOp, name_of(dx.dtype), dx.shape,
          name_of(x.dtype), x.shape);
    check(static_cast<bool>(dz) == static_cast<bool>(z), "{}: dz goes with z", kOp);
    check(static_cast<bool>(dalpha) == static_cast<bool>(alpha) && static_cast<bool>(dtau) == static_cast<bool>(alpha),
          "{}: dalpha and dtau go with alpha", kOp);
    if (dz) check_like(kOp, "dz", dz, z.dtype, z.shape);
    if (dalpha) check_like(kOp, "dalpha", dalpha, alpha.dtype, alpha.shape);
    if (dtau) check_like(kOp, "dtau", dtau, alpha.dtype, {x.shape[0], x.shape[1]});
    PLIMSOLL_RUN(exec, temperature_backward(dx, dz, dalpha, dtau, dout, x, z, alpha, positions, write, exec));
}

}  // namespace plimsoll
