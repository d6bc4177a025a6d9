#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = exp(b_i) max(0, s_ij): b_i = -log n_i divides by the number of visible keys (Guo et al., arXiv:2410.13835),
// b = -log n by the length (Wortsman et al., arXiv:2309.08586).
struct Relu {
    static constexpr VariantInfo kInfo{.name = "relu", .paper = "2410.13835", .bias = BiasRole::kFactor};
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> /*row*/) {
        return s > T(0) ? s : T(0);
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T s, T /*f*/, T df, RowState<T, Math> /*row*/) {
        return s > T(0) ? df : T(0);
    }
};

}  // namespace plimsoll
