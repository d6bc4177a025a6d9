#pragma once

#include "kernels/attention/variants/sigmoid.h"

namespace plimsoll {

// p_ij = sigmoid(s_ij) / (sum_j sigmoid(s_ij) + 1e-8): a control, which sinks.            Gu et al., arXiv:2410.10781
struct SigmoidNormalized : DividedBySum<Sigmoid> {
    static constexpr VariantInfo kInfo{
        .name = "sigmoid_normalized", .paper = "2410.10781", .normalization = Normalization::kSum};
};

}  // namespace plimsoll
