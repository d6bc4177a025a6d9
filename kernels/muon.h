// Muon: momentum whose matrices are replaced by (almost) the nearest matrices with orthonormal rows or columns.
#pragma once

#include "kernels/exec.h"
#include "kernels/optimizer.h"

namespace plimsoll {

// buffer = momentum buffer + (1 - momentum) g,  g = gradient_scale * grad;
// direction = (momentum buffer + (1 - momentum) g) / max(|.|, 1e-7),  |.| the Frobenius norm: Nesterov's step, with the
// eps of torch.optim.Muon, so that a gradient of zeros stays one.
// direction, buffer, grad: equal fp32 or fp64 matrices, contiguous. factors: in exec's device memory, one. The norm is
// summed in fp64 as sum_of_squares does, so bits do not depend on the number of threads.
void nesterov_direction(Tensor direction, Tensor buffer, Tensor grad, const UpdateFactors* factors, const Exec& exec);

inline constexpr double kNesterovEps = 1e-7;

// An odd polynomial of degree five of a matrix X is X' = (a I + b G + c G^2) X with G = X X^T. With Muon's coefficients
// (Keller Jordan, 2024), steep at 0, five of them bring every singular value in [0.002, 1] between 0.68 and 1.21.
struct QuinticCoefficients {
    double a = 3.4445, b = -4.7750, c = 2.0315;
};
// gram = a I + b gram + c square.  gram, square (s, s), fp32 or fp64, contiguous.
void quintic_polynomial(Tensor gram, Tensor square, const QuinticCoefficients& coefficients, const Exec& exec);

// param = decay param - rate direction; working (bf16, may be absent) gets the rounded new parameters.
// param, direction: equal fp32 or fp64 matrices, contiguous. factors: in exec's device memory, one. Elementwise.
void apply_direction(Tensor param, Tensor direction, Tensor working, const UpdateFactors* factors, const Exec& exec);

struct MuonSpec {
    // What the learning rate is multiplied by, for a matrix (R, C): kSpectral, sqrt(max(1, R / C)), so that the largest
    // change of an output does not depend on the shape (Keller Jordan); kRms, 0.2 sqrt(max(R, C)), so that a parameter
    // changes as much as AdamW changes it, and the two share a learning rate and a decay (Moonlight, arXiv:2502.16982).
    enum class Scale : uint8_t { kSpectral, kRms };
    double lr = 0;
    double momentum = 0.95;
    double weight_decay = 0;  // decoupled: times lr, whatever the scale
    double gradient_scale = 1;
    Scale scale = Scale::kRms;
    WorkingRounding rounding = {};
};
// Of a matrix of that shape. Throws Error for any other.
UpdateFactors factors_of(const MuonSpec& spec, Shape shape);

inline constexpr int kNewtonSchulzSteps = 5;

// Memory of muon_step for matrices of up to `elements` elements whose smaller sides are at most `side`.
struct MuonScratch {
    Tensor direction, next;  // (elements)
    Tensor gram, square;     // (side * side)
};

// One update of the matrix param (R, C): Nesterov's direction, five Newton-Schulz steps, decay, step; in the order of
// torch.optim.Muon, with products in param's dtype instead of bf16 (Newton-Schulz on the smaller side's Gram matrix).
// param, buffer, grad: fp32 or fp64, contiguous; working, factors as above. Deterministic as kernels/matmul.h is.
void muon_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const MuonScratch& scratch,
               const UpdateFactors* factors, const Exec& exec);

}  // namespace plimsoll
