// What a weighting provides: one struct under variants/, named by one row of variants.def.
//
// The life of a score, on every backend: 1 s = scale q.k; 2 bias and mask; 3 row state (the running maximum and sum of
// normalised weightings, seeded by the extra column); 4 p = weight(s, row); 5 out = sum_j p v. Backward:
// ds = dscore(p, dp, delta, row), delta = rowsum(dout * out) for normalised weightings, else 0.
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
};

// What a row of scores has in common, and the exponential of the backend that asks: variants write row.exp(s).
template <class T, class Math = CpuMath>
struct RowState {
    T lse;   // normalised weightings
    T bias;  // the others: ScoreBias

    PLIMSOLL_HD static T exp(T x) { return Math::exp(x); }
};

// Both directions, in fp32 and fp64: a weighting without its derivative does not compile.
template <class V>
concept AttentionVariant = requires(float s, double d) {
    { V::kInfo } -> std::convertible_to<VariantInfo>;
    { V::weight(s, RowState<float>{}) } -> std::same_as<float>;
    { V::weight(d, RowState<double>{}) } -> std::same_as<double>;
    { V::dscore(s, s, s, RowState<float>{}) } -> std::same_as<float>;
    { V::dscore(d, d, d, RowState<double>{}) } -> std::same_as<double>;
};

}  // namespace plimsoll
