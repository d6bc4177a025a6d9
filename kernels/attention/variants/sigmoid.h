#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = 1 / (1 + exp(-(s_ij + b_i))),  b = -log n by default.                 Ramapuram et al., arXiv:2409.04431
struct Sigmoid {
    static constexpr VariantInfo kInfo{.name = "sigmoid", .paper = "2409.04431", .bias = BiasRole::kAdded};
    static constexpr bool kOnlyExponentials = true;
    static constexpr bool kGradientFromWeight = true;
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T s, RowState<T, Math> row) {
        return T(1) / (T(1) + row.exp(-(s + row.bias)));
    }
    // Two weights in place of their scores, with one reciprocal: 1/x = y (1/xy). Scores below -41 weigh as much as -41,
    // so that the product of exponentials of 41 stays finite in fp32 (in either unit of scores).
    template <class T, class Math>
    PLIMSOLL_HD static void weigh_pair(T& first, T& second, RowState<T, Math> row) {
        const auto one_and_exp = [&](T s) {
            const T x = -(s + row.bias);
            return T(1) + row.exp(x < T(41) ? x : T(41));
        };
        const T x = one_and_exp(first), y = one_and_exp(second), r = row.reciprocal(x * y);
        first = r * y, second = r * x;
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T p, T dp, RowState<T, Math> /*row*/) {
        return p * (T(1) - p) * dp;
    }
};

}  // namespace plimsoll
