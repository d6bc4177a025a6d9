// Biases of keys that their values make: what core attention adds to a key's scores (AttentionTensors::key_bias).
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// b_nh = w_h . v_ng: g = h / (NH / NKV), the key head of query head h. No source is known to us; the definition is
// plimsoll's: a head may rank keys by what they would give it, whatever the query.
// v (N, NKV, HS), with a row stride or not; w (NH, HS) and bias (N, NH) in the dtype sums are kept in, contiguous.
// Throws Error if shapes or dtypes disagree.
void key_bias_forward(Tensor bias, Tensor v, Tensor w, const Exec& exec);

// dv_ng += sum_h dbias_nh w_h over the query heads of g, ascending;
// dw_h = sum_n dbias_nh v_ng, as `write` says. Sums over rows run in fixed ranges: bits do not depend on threads.
void key_bias_backward(Tensor dv, Tensor dw, Tensor dbias, Tensor v, Tensor w, Write write, const Exec& exec);

}  // namespace plimsoll
