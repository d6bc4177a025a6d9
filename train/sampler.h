// Draws a token from logits.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/tensor.h"

namespace plimsoll {

struct SamplingOptions {
    double temperature = 1;  // logits are divided by it; 0 = the most likely id
    int64_t top_k = 0;       // only the k most likely ids; 0 = all
    double top_p = 1;        // only the most likely ids that together reach this probability
};

class Sampler {
  public:
    // For ids below `ids`, the rest of a vocabulary is never drawn. Throws Error (78) for options out of range, naming
    // the option.
    Sampler(const SamplingOptions& options, int64_t ids);

    // The id for a number drawn from [0, 1): probabilities in double, added up in the order of ids. Of equal logits the
    // lower id counts as more likely. logits (1, V), V >= ids, of a floating dtype sums are kept in. Throws Error (70)
    // if one of them is not finite. Allocates nothing after the first call.
    int32_t draw(Tensor logits, double uniform);

  private:
    int64_t nucleus(int64_t candidates, double total);

    SamplingOptions options_;
    int64_t ids_;
    std::vector<double> logits_;
    std::vector<double> weights_;  // exp((logit - largest) / temperature), 0 for an id that is left out
    std::vector<int32_t> order_;
};

}  // namespace plimsoll
