// Checks at the door, and the choice of device, for differential attention.
#include "kernels/differential.h"
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

void check_like(const char* op, const char* name, Tensor t, Shape shape, DType dtype) {
    check(t.shape == shape && t.dtype == dtype && t.contiguous(), "{}: {} must be {} {}, contiguous; got {} {}", op,
          name, name_of(dtype), shape, name_of(t.dtype), t.shape);
}

void check_maps(const char* op, const DifferentialTensors& t) {
    check(t.y.shape.rank() == 3 && t.out.shape.rank() == 3, "{}: y {}, out {}", op, t.y.shape, t.out.shape);
    const int64_t N = t.out.shape[0], P = t.out.shape[1], VS = t.out.shape[2];
    const DType sums = accumulator_of(t.y.dtype);
    check_like(op, "y", t.y, {N, 2 * P, VS}, t.y.dtype);
    check_like(op, "out", t.out, {N, P, VS}, t.y.dtype);
    if (t.lambda.shape.rank() == 1)
        check_like(op, "lambda", t.lambda, {1}, sums);
    else
        check_like(op, "lambda", t.lambda, {N, P}, t.y.dtype);
    if (!t.gain) return;
    check_like(op, "gain", t.gain, {VS}, sums);
    check_like(op, "rstd", t.rstd, {N, P}, sums);
}

void check_lambda(const char* op, Tensor lambda, Tensor vectors) {
    check(vectors.shape.rank() == 2 && vectors.dtype == accumulator_of(vectors.dtype), "{}: vectors {} {}", op,
          name_of(vectors.dtype), vectors.shape);
    check_like(op, "vectors", vectors, {4, vectors.shape[1]}, vectors.dtype);
    check_like(op, "lambda", lambda, {1}, vectors.dtype);
}

void check_repeated(const char* op, Tensor once, Tensor twice, int64_t block) {
    check(once.shape.rank() == 3 && block >= 1 && once.shape[1] % block == 0, "{}: heads {} in blocks of {}", op,
          once.shape, block);
    check_like(op, "the repeated heads", twice, {once.shape[0], 2 * once.shape[1], once.shape[2]}, once.dtype);
}

}  // namespace

void differential_forward(const DifferentialTensors& t, const DifferentialSpec& spec, const Exec& exec) {
    check_device(exec, "differential_forward");
    check_maps("differential_forward", t);
    PLIMSOLL_RUN(exec, differential_forward(t, spec, exec));
}

void differential_backward(const DifferentialTensors& d, const DifferentialTensors& t, const DifferentialSpec& spec,
                           Write write, const Exec& exec) {
    constexpr const char* op = "differential_backward";
    check_device(exec, op);
    check_maps(op, t);
    check_like(op, "dout", d.out, t.out.shape, t.out.dtype);
    check_like(op, "dy", d.y, t.y.shape, t.y.dtype);
    check_like(op, "dlambda", d.lambda, t.lambda.shape, t.lambda.dtype);
    if (t.gain) check_like(op, "dgain", d.gain, t.gain.shape, t.gain.dtype);
    if (t.lambda.shape.rank() == 1)
        check_like(op, "the parts of dlambda", d.rstd, {t.out.shape[0], t.out.shape[1]}, accumulator_of(t.y.dtype));
    PLIMSOLL_RUN(exec, differential_backward(d, t, spec, write, exec));
}

void differential_lambda_forward(Tensor lambda, Tensor vectors, double start, const Exec& exec) {
    check_device(exec, "differential_lambda_forward");
    check_lambda("differential_lambda_forward", lambda, vectors);
    PLIMSOLL_RUN(exec, differential_lambda_forward(lambda, vectors, start, exec));
}

void differential_lambda_backward(Tensor dvectors, Tensor dlambda, Tensor vectors, Write write, const Exec& exec) {
    check_device(exec, "differential_lambda_backward");
    check_lambda("differential_lambda_backward", dlambda, vectors);
    check_lambda("differential_lambda_backward", dlambda, dvectors);
    PLIMSOLL_RUN(exec, differential_lambda_backward(dvectors, dlambda, vectors, write, exec));
}

void repeat_heads_forward(Tensor out, Tensor x, int64_t block, const Exec& exec) {
    check_device(exec, "repeat_heads_forward");
    check_repeated("repeat_heads_forward", x, out, block);
    PLIMSOLL_RUN(exec, repeat_heads_forward(out, x, block, exec));
}

void repeat_heads_backward(Tensor dx, Tensor dout, int64_t block, const Exec& exec) {
    check_device(exec, "repeat_heads_backward");
    check_repeated("repeat_heads_backward", dx, dout, block);
    PLIMSOLL_RUN(exec, repeat_heads_backward(dx, dout, block, exec));
}

}  // namespace plimsoll
