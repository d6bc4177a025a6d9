// Checks at the door, and the choice of device, for the virtual key of attention and biases of heads.
#include "kernels/dispatch.h"
#include "kernels/extra_key.h"

namespace plimsoll {
namespace {

void check_heads(const char* op, const char* name, Tensor x, Shape shape, DType dtype) {
    check(x.shape == shape && x.dtype == dtype, "{}: {} is {} {}, must be {} {}", op, name, name_of(x.dtype), x.shape,
          name_of(dtype), shape);
}

// One row per head, or one for all.
void check_per_head(const char* op, const char* name, Tensor t, int64_t NH, int64_t HS, DType sums) {
    check((t.shape == Shape{NH, HS} || t.shape == Shape{1, HS}) && t.dtype == sums && t.contiguous(),
          "{}: {} is {} {}, must be {} ({} or 1, {})", op, name, name_of(t.dtype), t.shape, name_of(sums), NH, HS);
}

void check_extra_key(const char* op, const AttentionTensors& t, const ExtraKey& key) {
    check(t.q.shape.rank() == 3, "{}: q {} must be (N, NH, HS)", op, t.q.shape);
    const int64_t N = t.q.shape[0], NH = t.q.shape[1], HS = t.q.shape[2];
    const DType sums = accumulator_of(t.q.dtype);
    check_heads(op, "out", t.out, t.q.shape, t.q.dtype);
    check_heads(op, "lse", t.lse, {NH, N}, sums);
    check_heads(op, "score", key.score, {N, NH}, sums);
    if (t.gate) check_heads(op, "gate", t.gate, {N, NH}, t.q.dtype);
    check(t.lse.contiguous() && key.score.contiguous() && (!t.gate || t.gate.contiguous()),
          "{}: lse, score and gate must be contiguous", op);
    check_per_head(op, "k", key.k, NH, HS, sums);
    if (key.v) check_heads(op, "v", key.v, key.k.shape, sums);
}

void check_bias(const char* op, Tensor x, Tensor bias) {
    check(x.shape.rank() == 3, "{}: rows {} must be (N, NH, HS)", op, x.shape);
    check_per_head(op, "the bias", bias, x.shape[1], x.shape[2], accumulator_of(x.dtype));
}

}  // namespace

void extra_key_forward(const AttentionTensors& t, const ExtraKey& key, double scale, const Exec& exec) {
    check_device(exec, "extra_key_forward");
    check_extra_key("extra_key_forward", t, key);
    PLIMSOLL_RUN(exec, extra_key_forward(t, key, scale, exec));
}

void extra_key_backward(const ExtraKey& d, Tensor dout, const AttentionTensors& t, const ExtraKey& key, double scale,
                        Write write, const Exec& exec) {
    constexpr const char* op = "extra_key_backward";
    check_device(exec, op);
    check_extra_key(op, t, key);
    check_heads(op, "dout", dout, t.q.shape, t.q.dtype);
    check_heads(op, "dscore", d.score, key.score.shape, key.score.dtype);
    check_heads(op, "dk", d.k, key.k.shape, key.k.dtype);
    check(static_cast<bool>(d.v) == static_cast<bool>(key.v), "{}: dv goes with v", op);
    if (d.v) check_heads(op, "dv", d.v, key.v.shape, key.v.dtype);
    PLIMSOLL_RUN(exec, extra_key_backward(d, dout, t, key, scale, write, exec));
}

void extra_key_backward_query(Tensor dq, Tensor dscore, Tensor k, double scale, const Exec& exec) {
    constexpr const char* op = "extra_key_backward_query";
    check_device(exec, op);
    check_bias(op, dq, k);
    check_heads(op, "dscore", dscore, {dq.shape[0], dq.shape[1]}, accumulator_of(dq.dtype));
    PLIMSOLL_RUN(exec, extra_key_backward_query(dq, dscore, k, scale, exec));
}

void head_bias_forward(Tensor out, Tensor x, Tensor bias, const Exec& exec) {
    check_device(exec, "head_bias_forward");
    check_bias("head_bias_forward", x, bias);
    check_heads("head_bias_forward", "out", out, x.shape, x.dtype);
    PLIMSOLL_RUN(exec, head_bias_forward(out, x, bias, exec));
}

void head_bias_backward(Tensor dbias, Tensor dout, Write write, const Exec& exec) {
    check_device(exec, "head_bias_backward");
    check_bias("head_bias_backward", dout, dbias);
    PLIMSOLL_RUN(exec, head_bias_backward(dbias, dout, write, exec));
}

}  // namespace plimsoll
