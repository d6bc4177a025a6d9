// Checks at the door, and the choice of device, for what Muon and OrthoAdam are made of.
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

// fp32 or fp64 and contiguous, all with the shape and dtype of the first.
void check_equal(const char* op, std::initializer_list<Tensor> tensors) {
    const Tensor& first = *tensors.begin();
    check(first.dtype == DType::kF32 || first.dtype == DType::kF64, "{}: computes in fp32 or fp64, not in {}", op,
          name_of(first.dtype));
    for (const Tensor& t : tensors)
        check(t.shape == first.shape && t.dtype == first.dtype && t.contiguous(),
              "{}: wants equal contiguous tensors, got {} {} and {} {}, row stride {}", op, name_of(first.dtype),
              first.shape, name_of(t.dtype), t.shape, t.row_stride);
}

}  // namespace

void nesterov_direction(Tensor direction, Tensor buffer, Tensor grad, const UpdateFactors* factors, const Exec& exec) {
    check_device(exec, "nesterov_direction");
    check_equal("nesterov_direction", {direction, buffer, grad});
    PLIMSOLL_RUN(exec, nesterov_direction(direction, buffer, grad, factors, exec));
}

void quintic_polynomial(Tensor gram, Tensor square, const QuinticCoefficients& coefficients, const Exec& exec) {
    check_device(exec, "quintic_polynomial");
    check_equal("quintic_polynomial", {gram, square});
    check(gram.shape.rank() == 2 && gram.shape[0] == gram.shape[1], "quintic_polynomial: {} is not square", gram.shape);
    PLIMSOLL_RUN(exec, quintic_polynomial(gram, square, coefficients, exec));
}

void apply_direction(Tensor param, Tensor direction, Tensor working, const UpdateFactors* factors, const Exec& exec) {
    check_device(exec, "apply_direction");
    check_equal("apply_direction", {param, direction});
    check(!working || (working.dtype == DType::kBF16 && working.shape == param.shape && working.contiguous()),
          "apply_direction: working copy {} {} of {}", name_of(working.dtype), working.shape, param.shape);
    PLIMSOLL_RUN(exec, apply_direction(param, direction, working, factors, exec));
}

void adam_direction(Tensor direction, Tensor m, Tensor v, const UpdateFactors* factors, const Exec& exec) {
    check_device(exec, "adam_direction");
    check_equal("adam_direction", {direction, m, v});
    PLIMSOLL_RUN(exec, adam_direction(direction, m, v, factors, exec));
}

void rotate(Tensor x, Axis axis, Turn turn, const Rotation& rotation, const Exec& exec) {
    check_device(exec, "rotate");
    check_equal("rotate", {x});
    check(x.shape.rank() == 2 && x.elements() > 0, "rotate: wants a matrix with elements, got {}", x.shape);
    PLIMSOLL_RUN(exec, rotate(x, axis, turn, rotation, exec));
}

}  // namespace plimsoll
