#pragma once

#include "kernels/attention/variant.h"

namespace plimsoll {

// p_ij = 1 / n_i for the n_i keys that the query sees, whatever the scores: the mean of values. n_i is the sum of ones.
// A control: what attention does without looking.                                         Xue et al., arXiv:2510.11602
struct Uniform {
    static constexpr VariantInfo kInfo{.name = "uniform", .paper = "2510.11602", .normalization = Normalization::kSum};
    template <class T, class Math>
    PLIMSOLL_HD static T weight(T /*s*/, RowState<T, Math> /*row*/) {
        return T(1);
    }
    template <class T, class Math>
    PLIMSOLL_HD static T dscore(T /*s*/, T /*f*/, T /*df*/, RowState<T, Math> /*row*/) {
        return T(0);
    }
    template <class T>
    PLIMSOLL_HD static T divisor(T sum) {
        return sum;
    }
    template <class T>
    PLIMSOLL_HD static T divisor_slope(T /*sum*/) {
        return T(1);
    }
};

}  // namespace plimsoll
