#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = 1 / (1 + exp(-(s_ij + b_i))),  b = -log n by default.                 Ramapuram et al., arXiv:2409.04431
struct Sigmoid {
    static constexpr VariantInfo kInfo{.name = "sigmoid", .paper = "2409.04431", .bias = BiasRole::kAdded};
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> row) {
        return T(1) / (T(1) + row.exp(-(s + row.bias)));
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T p, T dp, RowState<T, Math> /*row*/) {
        return p * (T(1) - p) * dp;
    }
};

}  // namespace plimsoll
