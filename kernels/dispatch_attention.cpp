// Shapes of attention and its gate are checked here, at the door; kernels trust them.
#include "kernels/attention.h"
#include "kernels/dispatch.h"

namespace plimsoll {
namespace {

constexpr int64_t kMaxHeadSize = 256;

void check_attention(const char* op, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                     const AttentionSpec& spec, const Exec& exec) {
    const auto& [out, lse, q, k, v, sink_logit, gate] = t;
    check(q.shape.rank() == 3 && k.shape.rank() == 3, "{}: q {} and k {} must be (N, heads, HS)", op, q.shape, k.shape);
    const int64_t N = q.shape[0], NH = q.shape[1], HS = q.shape[2];
    check(k.shape == v.shape && k.shape[0] == N && k.shape[2] == HS && out.shape == q.shape,
          "{}: q {}, k {}, v {}, out {}", op, q.shape, k.shape, v.shape, out.shape);
    check(k.shape[1] > 0 && NH % k.shape[1] == 0, "{}: {} query heads are no multiple of {} key heads", op, NH,
          k.shape[1]);
    check(HS >= 1 && HS <= kMaxHeadSize, "{}: head size {}, must lie in 1 .. {}", op, HS, kMaxHeadSize);
    check(k.dtype == q.dtype && v.dtype == q.dtype && out.dtype == q.dtype, "{}: q, k, v and out must have one dtype",
          op);
    const bool normalized = is_normalized(spec.weighting);
    check(!normalized || (lse.shape == Shape{NH, N} && lse.contiguous() && lse.dtype == accumulator_of(q.dtype)),
          "{}: lse {} in {} must be ({}, {}) in {}", op, lse.shape, name_of(lse.dtype), NH, N,
          name_of(accumulator_of(q.dtype)));
    check(normalized || spec.extra_column == ExtraColumn::kNone,
          "{}: an extra column needs a weighting that normalises", op);
    check(static_cast<bool>(sink_logit) == (spec.extra_column == ExtraColumn::kLearnedLogit),
          "{}: sink_logit goes with a learned "
          "extra column",
          op);
    check(!sink_logit || (sink_logit.shape == Shape{NH} && sink_logit.dtype == accumulator_of(q.dtype)),
          "{}: sink_logit {} in {}", op, sink_logit.shape, name_of(sink_logit.dtype));
    check(!gate || (gate.shape == Shape{N, NH} && gate.dtype == q.dtype && gate.contiguous()),
          "{}: gate {} in {} must be ({}, {}) in {}", op, gate.shape, name_of(gate.dtype), N, NH, name_of(q.dtype));
    check(cu_seqlens.size() >= 2, "{}: cu_seqlens must run from 0 to {}", op, N);
    check(spec.window >= 0 && spec.pinned >= 0, "{}: window {} and pinned {} must not be negative", op, spec.window,
          spec.pinned);
    if (!ids_are_readable(exec)) return;
    check(cu_seqlens.front() == 0 && cu_seqlens.back() == N, "{}: cu_seqlens must run from 0 to {}", op, N);
    for (size_t d = 1; d < cu_seqlens.size(); ++d)
        check(cu_seqlens[d - 1] < cu_seqlens[d], "{}: cu_seqlens must ascend, entry {} is {} after {}", op, d,
              cu_seqlens[d], cu_seqlens[d - 1]);
}

void check_gate(const char* op, Tensor out, Tensor y, Tensor z) {
    check(
        y.shape.rank() == 3 && out.shape == y.shape && z.shape == y.shape && out.dtype == y.dtype && z.dtype == y.dtype,
        "{}: y {}, out {}, z {} do not belong together", op, y.shape, out.shape, z.shape);
}

}  // namespace

void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec) {
    check_device(exec, "attention_forward");
    check_attention("attention_forward", t, cu_seqlens, spec, exec);
    PLIMSOLL_RUN(exec, attention_forward(t, cu_seqlens, spec, exec));
}

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    check_device(exec, "attention_backward");
    check_attention("attention_backward", t, cu_seqlens, spec, exec);
    const auto alike = [](Tensor a, Tensor b) { return a.shape == b.shape && a.dtype == b.dtype; };
    check(alike(d.q, t.q) && alike(d.k, t.k) && alike(d.v, t.v) && alike(d.out, t.out),
          "attention_backward: gradients must look like what they are gradients of");
    check(alike(d.sink_logit, t.sink_logit), "attention_backward: dsink_logit {}", d.sink_logit.shape);
    check(alike(d.gate, t.gate), "attention_backward: dgate {} for gate {}", d.gate.shape, t.gate.shape);
    PLIMSOLL_RUN(exec, attention_backward(d, t, cu_seqlens, spec, write, exec));
}

void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec) {
    check_device(exec, "gate_forward");
    check_gate("gate_forward", out, y, z);
    PLIMSOLL_RUN(exec, gate_forward(out, y, z, exec));
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec) {
    check_device(exec, "gate_backward");
    check_gate("gate_backward", dout, y, z);
    check(dy.shape == y.shape && dz.shape == z.shape && dy.dtype == y.dtype && dz.dtype == y.dtype,
          "gate_backward: dy {}, dz {}", dy.shape, dz.shape);
    PLIMSOLL_RUN(exec, gate_backward(dy, dz, dout, y, z, exec));
}

}  // namespace plimsoll
