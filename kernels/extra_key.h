// A virtual key beside the keys of core attention, with a value or without (K bias, KV bias), and a bias on its output
// (V bias).
#pragma once

#include "kernels/attention.h"

namespace plimsoll {

// A virtual key, its value, and what scores it makes; or the gradients of that.
struct ExtraKey {
    Tensor k;      // (NH, HS), or (1, HS) for all heads, in the dtype sums are kept in
    Tensor v;      // like k; empty = no value (K bias)
    Tensor score;  // (N, NH) e_i = scale q_i . k*, in the same dtype
};

// Makes of softmax attention without the virtual key what it is with it, in place:
//   e_i = scale q_i . k*_h;  lse'_i = log(exp(lse_i) + exp(e_i));  w_i = exp(e_i - lse'_i);
//   out'_i = exp(lse_i - lse'_i) out_i + g_i w_i v*_h,   g_i = sigmoid(gate_i), 1 without a gate.
// K bias and KV bias: Gu et al., arXiv:2410.10781; attention biases: Sun et al., arXiv:2402.17762. The key is not
// rotated, and every query sees it. From t: q, gate, out and lse (the last two are replaced); writes key.score.
// Attention's own backward then is right as it is: its weights are exp(s - lse'), its delta rowsum(dout * out').
// A row that saw no key (lse = -inf, out = 0) becomes g_i v*_h.
// Throws Error if shapes or dtypes disagree.
void extra_key_forward(const AttentionTensors& t, const ExtraKey& key, double scale, const Exec& exec);

// From dout (N, NH, HS), the gradient of out', and what forward read and wrote:
//   d.score_i = w_i (g_i dout_i . v* - dout_i . out'_i);
//   d.k = scale sum_i d.score_i q_i;  d.v = sum_i w_i g_i dout_i, as `write` says.
// Sums over rows run in fixed ranges: bits do not depend on threads.
void extra_key_backward(const ExtraKey& d, Tensor dout, const AttentionTensors& t, const ExtraKey& key, double scale,
                        Write write, const Exec& exec);

// dq_i += scale dscore_i k*_h: what the virtual key adds to the gradient of queries. dq (N, NH, HS).
void extra_key_backward_query(Tensor dq, Tensor dscore, Tensor k, double scale, const Exec& exec);

// out = x + bias_h: V bias, Gu et al., arXiv:2410.10781. x, out (N, NH, HS) of one dtype; bias (NH, HS), or (1, HS) for
// all heads, in the dtype sums are kept in.
void head_bias_forward(Tensor out, Tensor x, Tensor bias, const Exec& exec);
// dbias = sum over rows of dout, as `write` says, in ranges as above.
void head_bias_backward(Tensor dbias, Tensor dout, Write write, const Exec& exec);

}  // namespace plimsoll
