#pragma once

#include "kernels/attention/variants/relu.h"

namespace plimsoll {

// p_ij = f_ij / (sum_j f_ij + 1e-8),  f = max(0, s): linear attention with a kernel. Scores are phi(q).phi(k), where
// phi has been applied to q and k and is positive, so that f is s; a score that is not (without phi, or less ALiBi)
// weighs 0. Katharopoulos et al., arXiv:2006.16236; Gu et al., arXiv:2410.10781
struct KernelNormalized : DividedBySum<Relu> {
    static constexpr VariantInfo kInfo{
        .name = "kernel_normalized", .paper = "2006.16236", .normalization = Normalization::kSum};
};

}  // namespace plimsoll
