#pragma once

#include "kernels/attention/variants/elu1.h"

namespace plimsoll {

// p_ij = f_ij / (sum_j f_ij + 1e-8),  f = elu(s) + 1: an ablation of plimsoll's, after Gu et al., arXiv:2410.10781.
struct Elu1Normalized : DividedBySum<Elu1> {
    static constexpr VariantInfo kInfo{
        .name = "elu1_normalized", .paper = "2410.10781", .normalization = Normalization::kSum};
};

}  // namespace plimsoll
