// What every kernel of a call of attention is told, whatever instructions it is made of, beside where queries, keys and
// values lie.
#pragma once

#include "kernels/cuda/attention_tile.cuh"

namespace plimsoll::cuda {

struct ForwardCall {
    float* lse;               // (NH, N), the rows' statistic, null for weightings without
    const float* sink_logit;  // (NH) or null
    const float* score_bias;  // (NH) or null
    float extra_logit;        // of a constant extra column, -inf without one
    const bf16* gate;         // (N, NH) before the sigmoid, or null
    int group;                // query heads of a key head
    int32_t N;                // rows of q
    DeviceMask mask;
};
inline ForwardCall forward_call(const AttentionTensors& t, const AttentionSpec& spec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1];
    return {.lse = optional<float>(t.lse),
            .sink_logit = spec.extra_column == ExtraColumn::kLearnedLogit ? t.sink_logit.ptr<float>() : nullptr,
            .score_bias = optional<float>(t.score_bias),
            .extra_logit = spec.extra_column == ExtraColumn::kConstant ? static_cast<float>(spec.extra_logit) : kLowest,
            .gate = optional<bf16>(t.gate),
            .group = static_cast<int>(NH / t.k.shape[1]),
            .N = static_cast<int32_t>(N),
            .mask = make_mask(spec, NH)};
}

struct BackwardCall {
    float* dbias;              // (NH, N), each query's part of a learned bias' gradient, or null
    const float *lse, *delta;  // (NH, N), null for weightings without
    const float* score_bias;   // (NH) or null
    const bf16* gate;          // (N, NH) before the sigmoid, or null
    int group;                 // query heads of a key head
    int32_t N;                 // rows of q
    DeviceMask mask;
};
inline BackwardCall backward_call(const AttentionTensors& t, const float* delta, float* dbias,
                                  const AttentionSpec& spec) {
    const bool normalized = is_normalized(spec.weighting);
    return {.dbias = dbias,
            .lse = normalized ? t.lse.ptr<float>() : nullptr,
            .delta = normalized ? delta : nullptr,
            .score_bias = optional<float>(t.score_bias),
            .gate = optional<bf16>(t.gate),
            .group = static_cast<int>(t.q.shape[1] / t.k.shape[1]),
            .N = static_cast<int32_t>(t.q.shape[0]),
            .mask = make_mask(spec, t.q.shape[1])};
}

// What backward knows of a query before it looks at a key; zeros for rows that are not there.
struct QueryRow {
    float state;   // lse, or the bias
    float delta;   // times the factor of the row's weights, as they make it (delta_factor)
    float factor;  // of the row's weights, times the gate: of dout, in effect
};

template <class V>
PLIMSOLL_DEVICE QueryRow query_row(const BackwardCall& a, int head, int i, int begin, int end) {
    const int64_t at = static_cast<int64_t>(head) * a.N + i;
    const float saved = kIsNormalized<V> ? a.lse[at] : 0.0f,
                bias = bias_of<V>(a.mask, a.score_bias, head, i, begin, end);
    QueryRow row{V::kInfo.normalization == Normalization::kExp ? saved : bias, kIsNormalized<V> ? a.delta[at] : 0.0f,
                 gate_of(a.gate, i, a.mask.NH, head)};
    if constexpr (kHasFactor<V>) {
        const float factor = weight_factor<V>(saved, RowState<float, DeviceMath>{saved, bias});
        row.delta *= factor * delta_factor<V>(saved);
        row.factor *= factor;
    }
    return row;
}

}  // namespace plimsoll::cuda
