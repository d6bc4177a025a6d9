// Parameter updates over flat spans of parameters.
#pragma once

#include <optional>
#include <type_traits>

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

// The numbers of an update. Ops read them in the memory of exec's device, when they run: work that was recorded
// (replay.h) repeats the arguments of its ops, and these change from step to step.
struct UpdateFactors {
    double gradient_scale = 1;                        // gradients are multiplied by this first
    double decay = 1;                                 // parameters too
    double rate = 0;                                  // the direction is multiplied by this
    double momentum = 0, coupled_decay = 0;           // of SGD and Muon; of SGD
    double beta1 = 0, beta2 = 0, eps = 0;             // of Adam
    double mean_correction = 1, root_correction = 1;  // Adam's: 1 / (1 - beta1^step), 1 / sqrt(1 - beta2^step)
    double corrected_rate = 0;                        // lr / (1 - beta1^step)
    bool first = false;                               // SGD's first step
    WorkingRounding rounding = {};
};

struct AdamWSpec {
    double lr = 0;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0;
    double gradient_scale = 1;  // of clipping, and of the mean over micro batches
    int64_t step = 1;           // 1 for the first update
    WorkingRounding rounding = {};
};
// Throws Error for a step below 1.
UpdateFactors factors_of(const AdamWSpec& spec);

struct SgdSpec {
    double lr = 0;
    double momentum = 0.9;
    double weight_decay = 0;
    double gradient_scale = 1;
    int64_t step = 1;  // at step 1 the momentum buffer starts as the gradient
    WorkingRounding rounding = {};
};
// Throws Error for a step below 1.
UpdateFactors factors_of(const SgdSpec& spec);

// Neighbours in flat buffers that are updated with the same factors.
struct UpdateSpan {
    int64_t begin = 0;  // its first element in the buffers of parameters, gradients and working copies
    int64_t state = 0;  // and in those of moments or momentum
    int64_t count = 0;  // elements
    int64_t block = 0;  // the spans before it have so many blocks of kUpdateBlock elements: UpdateTable counts
    UpdateFactors factors = {};
};
static_assert(std::is_trivially_copyable_v<UpdateSpan>);
inline constexpr int64_t kUpdateBlock = 4096;

// Neighbours in an UpdateTable, whose blocks have numbers from first_block on.
struct UpdateSpans {
    const UpdateSpan* at = nullptr;  // in the memory of the device that updates
    int64_t count = 0;
    int64_t first_block = 0, blocks = 0;
};

// Of every span, with its factors:  g = gradient_scale * grad;  m = beta1 m + (1 - beta1) g;
// v = beta2 v + (1 - beta2) g^2;
// p -= lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay p ).
// AdamW: Loshchilov and Hutter, arXiv:1711.05101, in the order of torch.optim.AdamW (decay first, then the step).
// param, grad: equal 1-D fp32 or fp64 tensors; m, v: equal ones of the same dtype. working (bf16, like param, may be
// absent) gets the rounded new parameters. Spans must not overlap. Elementwise: bits depend neither on the number of
// threads nor on where spans are cut. One launch on a GPU, however many spans.
void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const UpdateSpans& spans,
                const Exec& exec);

// g = gradient_scale * grad + weight_decay p;  buffer = momentum buffer + g (step 1: g);  p -= lr buffer.
// As torch.optim.SGD without dampening or Nesterov. Else as adamw_step, with `buffer` for the moments.
void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const UpdateSpans& spans, const Exec& exec);

}  // namespace plimsoll
