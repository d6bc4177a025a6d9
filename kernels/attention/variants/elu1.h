#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = elu(s_ij) + 1: exp(s_ij) below 0, s_ij + 1 above.                                Gu et al., arXiv:2410.10781
struct Elu1 {
    static constexpr VariantInfo kInfo{.name = "elu1", .paper = "2410.10781"};
    static constexpr bool kGradientFromWeight = true;
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> row) {
        const T below = row.exp(s < T(0) ? s : T(0));
        return s < T(0) ? below : s + T(1);
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T f, T df, RowState<T, Math> /*row*/) {
        return f < T(1) ? f * df : df;
    }
};

}  // namespace plimsoll
