// Differential attention: the difference of two score maps, behind core attention that knows nothing of it.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// What follows the difference of two maps: the norm, if there is one.
struct DifferentialSpec {
    double factor = 1;  // times its output: 1 - lambda_init
    double eps = 0;
};

struct DifferentialTensors {
    Tensor y;       // (N, 2 P, VS) what core attention wrote
    Tensor lambda;  // (1) in the dtype of sums: lambda; or (N, P) in y's dtype: lambda_np = sigmoid of it
    Tensor gain;    // (VS) in the dtype of sums: the norm's; empty = no norm
    Tensor rstd;    // (N, P) in the dtype of sums, with a norm
    Tensor out;     // (N, P, VS)
};

// z_p = y_2p - lambda y_2p+1;  out_p = z_p, or with a norm factor rstd_p z_p gain, rstd_p = 1 / sqrt(mean(z_p^2) +
// eps). V1 (norm, one lambda, values of two heads' width): Ye et al., arXiv:2410.05258. V2 (no norm, lambda = sigmoid(x
// W) per token and head): Microsoft, January 2026.
void differential_forward(const DifferentialTensors& t, const DifferentialSpec& spec, const Exec& exec);
// From d.out: d.y and d.lambda, overwritten (the latter of (1) through d.rstd, (N, P) of scratch); d.gain as `write`
// says. Sums over rows run in fixed ranges: bits do not depend on threads.
void differential_backward(const DifferentialTensors& d, const DifferentialTensors& t, const DifferentialSpec& spec,
                           Write write, const Exec& exec);

// lambda (1) = exp(v_0 . v_1) - exp(v_2 . v_3) + start;  vectors (4, HS), both in the dtype of sums.
void differential_lambda_forward(Tensor lambda, Tensor vectors, double start, const Exec& exec);
void differential_lambda_backward(Tensor dvectors, Tensor dlambda, Tensor vectors, Write write, const Exec& exec);

// Every `block` heads twice: out_((2 b + a) block + r) = x_(b block + r), a = 0, 1. x (N, H, HS), out (N, 2 H, HS).
void repeat_heads_forward(Tensor out, Tensor x, int64_t block, const Exec& exec);
// dx = the sum of both, overwritten.
void repeat_heads_backward(Tensor dx, Tensor dout, int64_t block, const Exec& exec);

}  // namespace plimsoll
