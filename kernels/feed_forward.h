// The feed-forward half of a block as one op each way: on a CPU with AVX512_BF16, rows go through all of it while they
// are in cache. Elsewhere, and where that does not pay, it is the ops it is made of, one after the other, with the same
// bits.
#pragma once

#include "kernels/mlp.h"
#include "kernels/norm.h"

namespace plimsoll {

// Operands, results and what backward needs. The stream is fp32 or fp64; matmul operands are in that dtype or bf16.
struct FeedForwardTensors {
    Tensor x, branch;                            // (N, C): the stream, and the branch added to it before
    Tensor sum;                                  // (N, C): their sum, in the stream's dtype
    Tensor normed, mean, rstd, gain, gain_bias;  // as norm_forward has them: (N, C), (N), (N), (C), (C)
    Tensor up, up_weight, up_bias;               // (N, U), (U, C), (U); U is 2F for kSwiglu, else F
    Tensor act, down_weight, down_bias;          // (N, F), (C, F), (C)
    Tensor product;                              // (N, C): memory for the last product; may be branch's
    Tensor out;                                  // (N, C): the stream behind
};

// sum = x + branch, normed = norm(sum), up = normed up_weight^T + up_bias, act = f(up),
// out = sum + (act down_weight^T + down_bias): residual_norm_forward, matmul_activation_forward, matmul_forward and
// residual_forward.
void feed_forward_forward(const FeedForwardTensors& t, Activation kind, NormSpec spec, const Exec& exec);

// Gradients of feed_forward_forward.
struct FeedForwardGradients {
    Tensor dx;            // (N, C): on entry the gradient of out, then that of sum
    Tensor dout;          // (N, C): the gradient of the last product, as a matmul operand: dx, rounded
    Tensor dact, dup;     // (N, F), (N, U): dup is dact's or t.up's memory, as in matmul_activation_backward
    Tensor dnormed;       // (N, C): memory for a gradient; holds it only where no cache does
    Tensor dbranch;       // (N, C): gets dx, rounded; may be absent, and may be dout's memory
    Tensor dgain, dbias;  // (C): of the norm
};

// The gradients of inputs: matmul_activation_backward, matmul_backward_input, and residual_norm_backward (without
// dbranch: norm_backward). Those of weights are matmul_backward_weight's, of dout and act, and of dup and normed.
void feed_forward_backward(const FeedForwardGradients& d, const FeedForwardTensors& t, Activation kind, NormSpec spec,
                           Write write, const Exec& exec);

}  // namespace plimsoll
