// What a weighting provides: one struct under variants/, named by one row of variants.def.
//
// The life of a score, on every backend: 1 s = scale q.k; 2 ALiBi and mask; 3 row state: the bias, and for kExp the
// running maximum and sum, seeded by the extra column; 4 f = V::weight(s, row); 5 the row's factor (row.h) makes f the
// weight p; out = sum_j p v. Backward: ds = V::dscore(s, f, df, row), where df = dL/df has that factor, and through
// delta = rowsum(dout * out) what a row's statistic adds.
//
// A weighting may say that it knows scores, lse and bias only in exponentials of their sums (kOnlyExponentials): then a
// backend may have all of them in units of log 2, with 2^x for exp. It may say that dscore knows a score by its weight
// only, and is 0 where that is 0 (kGradientFromWeight): then a backend need not keep scores. And it may weigh two
// scores at once (weigh_pair).
#pragma once

#include <concepts>

#include "kernels/attention.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/host_device.h"

namespace plimsoll {

struct CpuMath {
    template <class T>
    static T exp(T x) {
        return cpu::exp_fast(x);  // vectorisable in fp32
    }
    template <class T>
    static T reciprocal(T x) {
        return T(1) / x;
    }
};

// What a row of scores has in common, and the exponential of the backend that asks: variants write row.exp(s).
template <class T, class Math = CpuMath>
struct RowState {
    T lse;   // kExp: lse, or the running maximum while it is being found
    T bias;  // b of BiasRole::kAdded and kFactor

    PLIMSOLL_HD static T exp(T x) { return Math::exp(x); }
    PLIMSOLL_HD static T reciprocal(T x) { return Math::reciprocal(x); }
};

// What kSum wants beside: the divisor of a row from the sum of its f, and the divisor's derivative.
template <class V>
concept DividesBySum = requires(float s, double d) {
    { V::divisor(s) } -> std::same_as<float>;
    { V::divisor(d) } -> std::same_as<double>;
    { V::divisor_slope(s) } -> std::same_as<float>;
    { V::divisor_slope(d) } -> std::same_as<double>;
};

// Both directions, in fp32 and fp64: a weighting without its derivative does not compile.
template <class V>
concept AttentionVariant = requires(float s, double d) {
    { V::kInfo } -> std::convertible_to<VariantInfo>;
    { V::weight(s, RowState<float>{}) } -> std::same_as<float>;
    { V::weight(d, RowState<double>{}) } -> std::same_as<double>;
    { V::dscore(s, s, s, RowState<float>{}) } -> std::same_as<float>;
    { V::dscore(d, d, d, RowState<double>{}) } -> std::same_as<double>;
}
&&(V::kInfo.normalization != Normalization::kSum || (DividesBySum<V> && V::kInfo.bias != BiasRole::kFactor));

// The weights f of another weighting, which are not negative, divided by their sum: p = f / (sum_j f_j + 1e-8), as Gu
// et al. do (arXiv:2410.10781).
template <class V>
struct DividedBySum : V {
    template <class T>
    PLIMSOLL_HD static T divisor(T sum) {
        return sum + T(1e-8);
    }
    template <class T>
    PLIMSOLL_HD static T divisor_slope(T /*sum*/) {
        return T(1);
    }
};

}  // namespace plimsoll
