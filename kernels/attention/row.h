// What a row of weights has in common, beside what its mask hides: its bias, and the factor on all its weights.
#pragma once

#include "kernels/attention/mask.h"
#include "kernels/attention/variant.h"

namespace plimsoll {

// b of query i in a document of n tokens, 0 for a weighting that takes none. learned: the head's score_bias, where the
// spec has one.
template <class V>
double row_bias(const AttentionSpec& spec, const Mask& mask, int64_t i, int64_t n, double learned) {
    if (V::kInfo.bias == BiasRole::kNone) return 0;
    return spec.bias_kind == ScoreBias::kLearned ? learned : score_bias(spec, mask, i, n);
}

template <class V>
inline constexpr bool kIsNormalized = V::kInfo.normalization != Normalization::kNone;

// Whether p is weight_factor times V::weight, and not V::weight itself.
template <class V>
inline constexpr bool kHasFactor = V::kInfo.normalization == Normalization::kSum || V::kInfo.bias == BiasRole::kFactor;

// p / V::weight in a row: 1 / divisor(sum) or exp(b), else 1. 0 if the divisor is not above 0: a row that sees nothing.
template <class V, class T, class Math>
PLIMSOLL_HD T weight_factor(T sum, RowState<T, Math> row) {
    if constexpr (V::kInfo.normalization == Normalization::kSum) {
        const T divisor = V::divisor(sum);
        return divisor > T(0) ? T(1) / divisor : T(0);
    } else {
        return V::kInfo.bias == BiasRole::kFactor ? row.exp(row.bias) : T(1);
    }
}

// How much of a row's delta backward subtracts from dL/dp: all, or as the divisor follows the row's sum.
template <class V, class T>
PLIMSOLL_HD T delta_factor(T sum) {
    if constexpr (V::kInfo.normalization == Normalization::kSum)
        return V::divisor_slope(sum);
    else
        return T(1);
}

// dL/ds from s, f = V::weight, dp and delta, both times the row's factors.
template <class V, class T, class Math>
PLIMSOLL_HD T score_gradient(T s, T f, T dp, T delta, RowState<T, Math> row) {
    return V::dscore(s, f, kIsNormalized<V> ? dp - delta : dp, row);
}

// One score's part of its row's dL/db.
template <class V, class T>
PLIMSOLL_HD T bias_gradient(T f, T dp, T ds) {
    return V::kInfo.bias == BiasRole::kFactor ? f * dp : ds;
}

}  // namespace plimsoll
