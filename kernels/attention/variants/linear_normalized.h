#pragma once

#include "kernels/attention/variants/linear.h"

namespace plimsoll {

// p_ij = s_ij / max(|sum_j s_ij|, 1); where the divisor is 1 it has no gradient.            Gu et al., arXiv:2410.10781
struct LinearNormalized : Linear {
    static constexpr VariantInfo kInfo{
        .name = "linear_normalized", .paper = "2410.10781", .normalization = Normalization::kSum};
    template <class T>
    PLIMSOLL_HD static T divisor(T sum) {
        const T size = sum < T(0) ? -sum : sum;
        return size > T(1) ? size : T(1);
    }
    template <class T>
    PLIMSOLL_HD static T divisor_slope(T sum) {
        return sum > T(1) ? T(1) : sum < T(-1) ? T(-1) : T(0);
    }
};

}  // namespace plimsoll
