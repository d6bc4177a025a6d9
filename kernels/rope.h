// Rotary position embedding.
#pragma once

#include <span>
#include <vector>

#include "kernels/exec.h"

namespace plimsoll {

// Rotates pairs (x_c, x_{c + HS/2}) of every head by the angle position * theta^(-2c / HS), in place.
// The rotate-half layout of GPT-NeoX and LLaMA; RoFormer, arXiv:2104.09864.
// x (N, H, HS), HS even, any floating dtype, may have a row stride (the query and key part of a fused projection).
// Angles are taken in fp64, sines and cosines rounded to the dtype sums are kept in.
// Throws Error if HS is odd or positions does not have N entries.
void rope_forward(Tensor x, std::span<const int32_t> positions, double theta, const Exec& exec);

// The gradient, in place: the rotation by the opposite angle.
void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec);

// theta^(-2c / HS), c = 0 .. HS / 2 - 1: radians per position of the pairs of channels.
std::vector<double> rope_frequencies(double theta, int64_t HS);

// rope_forward with given frequencies, HS / 2 of them: positions read with other wavelengths than those of training.
// On the CPU only.
void rope_forward(Tensor x, std::span<const int32_t> positions, std::span<const double> frequencies, const Exec& exec);

}  // namespace plimsoll
