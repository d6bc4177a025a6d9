// Which keys a query sees, and what is added to a score: the same on every path that computes weights.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/attention.h"

namespace plimsoll {

// Causal, with an optional window and pinned prefix. i, j count from the document's first token.
struct Mask {
    int64_t window, pinned;
    explicit Mask(const AttentionSpec& spec) : window(spec.window), pinned(spec.pinned) {}

    bool visible(int64_t i, int64_t j) const { return j <= i && (window == 0 || i - j < window || j < pinned); }
    // How many keys query i sees.
    int64_t visible_keys(int64_t i) const {
        const int64_t outside = window ? std::max<int64_t>(0, i + 1 - window) : 0;
        return i + 1 - outside + std::min(pinned, outside);
    }
    // For queries [i0, i1) and keys [j0, j1): nothing is visible / everything is.
    bool skips(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        return j0 >= i1 || (window && i0 - (j1 - 1) >= window && j0 >= pinned);
    }
    bool passes(int64_t i0, int64_t i1, int64_t j0, int64_t j1) const {
        return j1 - 1 <= i0 && (window == 0 || (i1 - 1) - j0 < window || j1 <= pinned);
    }
};

// m_h = 2^(-8 (h + 1) / NH), 0 without ALiBi.
inline double alibi_slope(const AttentionSpec& spec, int64_t head, int64_t NH) {
    return spec.alibi ? std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(NH)) : 0.0;
}

// b of query i for a weighting without normalisation.
inline double score_bias(const AttentionSpec& spec, const Mask& mask, int64_t i) {
    return spec.bias_kind == ScoreBias::kPerRow ? -std::log(static_cast<double>(mask.visible_keys(i)))
                                                : spec.score_bias;
}

// The extra column's logit for a head; -infinity without one.
inline double extra_logit(const AttentionSpec& spec, double sink_logit) {
    if (spec.extra_column == ExtraColumn::kConstant) return spec.extra_logit;
    if (spec.extra_column == ExtraColumn::kLearnedLogit) return sink_logit;
    return -std::numeric_limits<double>::infinity();
}

}  // namespace plimsoll
