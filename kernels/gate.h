// Gates and scales: a tensor times, or plus, a function of another that may be smaller.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// g = f(z), with s = 1 / (1 + exp(-z)).                                            Qiu et al., arXiv:2505.06708
enum class GateFunction : uint8_t {
    kSigmoid,      // s
    kHalfSigmoid,  // 1/2 + s/2: cannot close
    kSilu,         // z s: neither bounded nor positive
    kIdentity,     // z: a scale
};
enum class GateCombination : uint8_t { kMultiply, kAdd };
struct GateSpec {
    GateFunction function = GateFunction::kSigmoid;
    GateCombination combination = GateCombination::kMultiply;
};

// g for one z, in double: for probes and figures.
double gate_value(GateFunction function, double z);

// out = y * f(z), or y + f(z).
// y, out (N, H, HS) of one floating dtype, each with a row stride or not; out may be y's memory.
// z, contiguous, per token (N, H or 1, HS or 1) in that dtype, or the same for all tokens (H or 1, HS or 1) in the
// dtype sums are kept in; a dimension of 1 is repeated. Throws Error if shapes or dtypes disagree.
void gate_forward(Tensor out, Tensor y, Tensor z, GateSpec spec, const Exec& exec);

// dy = dout * f(z), or dout (overwritten; may be dout's own memory). dz, like z: sum over what z is repeated over of
// dout * y * f'(z), or dout * f'(z): overwritten if z is per token, else as `write` says, where tokens are summed in
// kGateSlots fixed ranges. Bits do not depend on the number of threads.
void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, GateSpec spec, Write write, const Exec& exec);
inline constexpr int64_t kGateSlots = 64;

// out_h = NH softmax(z)_h over the heads of a token: mean 1, so that a head's gain is another's loss. z, out (N, NH),
// one floating dtype, contiguous; out may be z's memory.
void head_softmax_forward(Tensor out, Tensor z, const Exec& exec);

// dz_h = out_h (dout_h - sum_k out_k dout_k / NH). dz may be dout's memory.
void head_softmax_backward(Tensor dz, Tensor dout, Tensor out, const Exec& exec);

}  // namespace plimsoll
