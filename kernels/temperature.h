// Temperatures of queries and values: each head's vector times a number that its token and its position give.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// out_h = tau_h x_h,  tau_h = 1 + tanh(z_h) + sigmoid(alpha_h) log(i + 1), i the token's position.
// Selective self-attention, Zhang et al., arXiv:2411.12892: 1 for z = 0 and alpha far below zero.
// x, out (N, H, HS) of one floating dtype, each with a row stride or not. z (N, H) in that dtype and alpha (H) in the
// dtype sums are kept in, contiguous; either may be absent, and its term with it. positions (N).
// Throws Error if shapes or dtypes disagree or both z and alpha are absent.
void temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                         const Exec& exec);

// dx = tau dout (overwritten; may be dout's own memory); with dtau = dout . x
//   dz = dtau (1 - tanh(z)^2), overwritten;  dalpha = sigmoid'(alpha) sum_n dtau log(i + 1), as `write` says, tokens
// summed in kTemperatureSlots fixed ranges. dtau (N, H), in the dtype sums are kept in, goes with alpha: overwritten.
void temperature_backward(Tensor dx, Tensor dz, Tensor dalpha, Tensor dtau, Tensor dout, Tensor x, Tensor z,
                          Tensor alpha, std::span<const int32_t> positions, Write write, const Exec& exec);
inline constexpr int64_t kTemperatureSlots = 64;

}  // namespace plimsoll
