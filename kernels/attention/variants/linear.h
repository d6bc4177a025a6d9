#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = s_ij: linear attention without normalisation.                                      Gu et al., arXiv:2410.10781
struct Linear {
    static constexpr VariantInfo kInfo{.name = "linear", .paper = "2410.10781"};
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> /*row*/) {
        return s;
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T /*f*/, T df, RowState<T, Math> /*row*/) {
        return df;
    }
};

}  // namespace plimsoll
