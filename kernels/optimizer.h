// Parameter updates over flat spans of parameters.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

struct AdamWSpec {
    double lr = 0;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0;
    double gradient_scale = 1;  // gradients are multiplied by this first (clipping, mean over micro batches)
    int64_t step = 1;           // 1 for the first update: the bias corrections are 1 - beta^step
};

// g = gradient_scale * grad;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;
// p -= lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p ).
// AdamW: Loshchilov and Hutter, arXiv:1711.05101, in the order of torch.optim.AdamW (decay first, then the step).
// param, m, v, grad: equal 1-D fp32 or fp64 tensors. working (bf16, may be absent) gets the rounded new parameters.
// Elementwise: bits do not depend on the number of threads.
void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const AdamWSpec& spec, const Exec& exec);

struct SgdSpec {
    double lr = 0;
    double momentum = 0.9;
    double weight_decay = 0;
    double gradient_scale = 1;
    int64_t step = 1;  // at step 1 the momentum buffer starts as the gradient
};

// g = gradient_scale * grad + weight_decay p;  buffer = momentum buffer + g (step 1: g);  p -= lr buffer.
// As torch.optim.SGD without dampening or Nesterov.
void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec);

}  // namespace plimsoll
