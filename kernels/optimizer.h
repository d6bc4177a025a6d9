// Parameter updates over flat spans of parameters.
#pragma once

#include <optional>

#include "kernels/exec.h"
#include "kernels/random.h"

namespace plimsoll {

// How the bf16 working copy of the parameters is rounded: to nearest, or, with a stream of random numbers, up or down
// by chance (round_stochastically). `first` is the span's first element in the stream, so bits depend on no cut.
struct WorkingRounding {
    std::optional<RandomStream> stochastic;
    int64_t first = 0;

    PLIMSOLL_HD bf16 operator()(float value, int64_t i) const {
        if (!stochastic) return bf16(value);
        const auto at = static_cast<uint64_t>(first + i);
        const auto words = stochastic->bits(at / 4);
        // Not words[at % 4]: an index the compiler does not know would put them into a GPU's local memory.
        return round_stochastically(value, at & 2 ? (at & 1 ? words[3] : words[2]) : (at & 1 ? words[1] : words[0]));
    }
};

struct AdamWSpec {
    double lr = 0;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0;
    double gradient_scale = 1;  // gradients are multiplied by this first (clipping, mean over micro batches)
    int64_t step = 1;           // 1 for the first update: the bias corrections are 1 - beta^step
    WorkingRounding rounding = {};
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
    WorkingRounding rounding = {};
};

// g = gradient_scale * grad + weight_decay p;  buffer = momentum buffer + g (step 1: g);  p -= lr buffer.
// As torch.optim.SGD without dampening or Nesterov.
void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec);

}  // namespace plimsoll
