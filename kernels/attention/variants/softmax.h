#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = exp(s_ij - lse_i),  lse_i = log(exp(extra logit) + sum_j exp(s_ij)).       Vaswani et al., arXiv:1706.03762
struct Softmax {
    static constexpr VariantInfo kInfo{.name = "softmax", .paper = "1706.03762", .normalization = Normalization::kExp};
    static constexpr bool kOnlyExponentials = true;
    static constexpr bool kGradientFromWeight = true;
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> row) {
        return row.exp(s - row.lse);
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T p, T dp, RowState<T, Math> /*row*/) {
        return p * dp;
    }
};

}  // namespace plimsoll
