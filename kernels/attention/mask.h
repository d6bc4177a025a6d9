// Which keys a query sees, and what is added to a score: the same on every path that computes weights.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/host_device.h"

namespace plimsoll {

// Keys that a query sees: all of [0, pinned), of [sparse, dense) those at a multiple of `step` before it, all of
// [dense, end). pinned <= dense and sparse <= dense.
template <class Int>
struct KeysOfQuery {
    Int pinned, sparse, dense, end;
};

// Queries that see a key: all of [begin, dense), of [dense, end) those at a multiple of `step` behind it.
template <class Int>
struct QueriesOfKey {
    Int begin, dense, end;
};

// A mask in numbers, for the CPU and the GPU. i, j count from the document's first token; n is the document's length,
// or how many of its keys there are.
//
// Query i sees key j <= i if j < pinned, or if they lie in one block, or, without blocks, at a distance i - j below
// `near`; or if the distance is a multiple of `step` below `far`. Queries below `prefix` see all keys below it.
template <class Int>
struct MaskRule {
    // Further than any distance, and still so with a position added.
    static constexpr Int kEndless = std::numeric_limits<Int>::max() / 4;

    Int near, far, step, block, pinned, prefix;

    explicit MaskRule(const AttentionSpec& spec) {
        const Int window = narrow(spec.window);
        near = window ? window : kEndless, far = 0, step = 1, block = 0;
        pinned = narrow(spec.pinned), prefix = narrow(spec.prefix);
        // A step of one key is no pattern.
        if (spec.pattern == MaskPattern::kDilated && spec.dilation > 1) {
            near = 1, step = narrow(spec.dilation);
            far = spec.window && spec.window <= kEndless / step ? window * step : kEndless;
        }
        if (spec.pattern == MaskPattern::kStrided) far = kEndless, step = window;
        if (spec.pattern == MaskPattern::kBlocked) near = kEndless, block = window;
        if (spec.pattern == MaskPattern::kStrided && step == 1) near = kEndless, far = 0;
    }

    // More than "causal, in a window, and the pinned keys".
    PLIMSOLL_HD bool patterned() const { return far > 0 || block > 0 || prefix > 0; }

    PLIMSOLL_HD bool visible(Int i, Int j) const {
        if (i < prefix && j < prefix) return true;
        if (j > i) return false;
        if (j < pinned || (block ? i / block == j / block : i - j < near)) return true;
        return i - j < far && (i - j) % step == 0;
    }
    PLIMSOLL_HD KeysOfQuery<Int> keys_of(Int i, Int n) const {
        if (i < prefix) return {0, 0, 0, lesser(prefix, n)};
        const Int dense = block ? i / block * block : i < near ? 0 : i - near + 1;
        const Int sparse = i < far ? 0 : i - far + 1;
        return {lesser(pinned, dense), lesser(sparse, dense), dense, i + 1};
    }
    PLIMSOLL_HD QueriesOfKey<Int> queries_of(Int j, Int n) const {
        QueriesOfKey<Int> queries{j, n, n};
        if (j >= pinned) {
            queries.dense = lesser(n, block ? (j / block + 1) * block : j + near);
            queries.end = greater(queries.dense, lesser(n, j + far));
        }
        if (j < prefix) {
            queries.begin = 0;
            queries.dense = greater(queries.dense, lesser(prefix, n));
            queries.end = greater(queries.end, queries.dense);
        }
        return queries;
    }
    // How many keys query i sees: n_i.
    PLIMSOLL_HD Int visible_keys(Int i, Int n = kEndless) const {
        const KeysOfQuery<Int> keys = keys_of(i, n);
        const Int dense = keys.end - keys.dense;  // at distances 0 .. dense - 1
        const Int reach = i < prefix ? 0 : lesser(far, i + 1 - keys.pinned);
        return keys.pinned + dense + (reach > dense ? (reach - 1) / step - (dense - 1) / step : 0);
    }
    // Where the keys end that some query of [i0, i1) sees.
    PLIMSOLL_HD Int keys_end(Int i0, Int i1) const { return i0 < prefix ? greater(i1, prefix) : i1; }
    // For queries [i0, i1) and keys [j0, j1): nothing is visible.
    PLIMSOLL_HD bool skips(Int i0, Int i1, Int j0, Int j1) const {
        if (i0 < prefix && j0 < prefix) return false;
        if (j0 >= i1) return true;
        if (j0 < pinned) return false;
        if (block) return j1 <= i0 / block * block;
        const Int nearest = i0 < j1 ? 0 : i0 - j1 + 1, furthest = i1 - 1 - j0;
        if (nearest < near) return false;
        const Int multiple = (nearest + step - 1) / step * step;
        return multiple > furthest || multiple >= far;
    }
    // Everything is; may be false all the same.
    PLIMSOLL_HD bool passes(Int i0, Int i1, Int j0, Int j1) const {
        if (i1 <= prefix && j1 <= prefix) return true;
        if (j1 - 1 > i0) return false;
        return j1 <= pinned || (block ? j0 >= (i1 - 1) / block * block : i1 - 1 - j0 < near);
    }

  private:
    static Int narrow(int64_t value) { return static_cast<Int>(std::min<int64_t>(value, kEndless)); }
    PLIMSOLL_HD static Int lesser(Int a, Int b) { return a < b ? a : b; }
    PLIMSOLL_HD static Int greater(Int a, Int b) { return a < b ? b : a; }
};

using Mask = MaskRule<int64_t>;

// m_h = 2^(-8 (h + 1) / NH), 0 without ALiBi.
inline double alibi_slope(const AttentionSpec& spec, int64_t head, int64_t NH) {
    return spec.alibi ? std::exp2(-8.0 * static_cast<double>(head + 1) / static_cast<double>(NH)) : 0.0;
}

// b of query i for a weighting without normalisation, in a document of n tokens.
inline double score_bias(const AttentionSpec& spec, const Mask& mask, int64_t i, int64_t n) {
    return spec.bias_kind == ScoreBias::kPerRow ? -std::log(static_cast<double>(mask.visible_keys(i, n)))
                                                : spec.score_bias;
}

// The extra column's logit for a head; -infinity without one.
inline double extra_logit(const AttentionSpec& spec, double sink_logit) {
    if (spec.extra_column == ExtraColumn::kConstant) return spec.extra_logit;
    if (spec.extra_column == ExtraColumn::kLearnedLogit) return sink_logit;
    return -std::numeric_limits<double>::infinity();
}

}  // namespace plimsoll
