// What backward knows of each query, made once per call for the kernels of sm_90a: fp32 at row_at(), in the units they
// compute in.
#pragma once

#include "kernels/cuda/attention_call.cuh"
#include "kernels/cuda/sm90/backward_tile.h"
#include "kernels/cuda/sm90/row_weights.cuh"

namespace plimsoll::cuda {

// Of weightings whose weights are exponentials the gate goes into lse and delta: p g = exp(s - (lse - log g)), and
// p g (dp - delta / g) is p (g dp - delta). Others have a factor.
template <class V>
inline constexpr bool kHasRowFactor = V::kInfo.normalization != Normalization::kExp;

// Whether queries of a head differ in anything. Others need no table of rows.
template <class V>
bool rows_differ(const BackwardCall& a) {
    return kIsNormalized<V> || a.gate || (V::kInfo.bias != BiasRole::kNone && a.mask.bias_per_row && !a.score_bias);
}

// query_row() as the kernels want it.
template <class V>
PLIMSOLL_DEVICE QueryRow backward_row(const BackwardCall& a, int head, int i, int begin, int end) {
    QueryRow row = query_row<V>(a, head, i, begin, end);
    if constexpr (!kHasRowFactor<V>) {
        if (a.gate) {
            const bool open = row.factor > 0;
            row.state = open ? row.state - logf(row.factor) : INFINITY;
            row.delta = open ? row.delta / row.factor : 0.0f;
        }
        row.factor = 1;
    }
    row.state *= ScoreUnit<V>::kUnit;
    return row;
}

// Rows behind the last query are zeros.
template <class V>
__global__ void __launch_bounds__(kTileThreads)
    backward_rows_kernel(float* rows, const __grid_constant__ BackwardCall a, const int32_t* first,
                         const int32_t* end) {
    const int64_t padded = padded_rows(a.N), i = static_cast<int64_t>(blockIdx.x) * kTileThreads + threadIdx.x;
    if (i >= padded) return;
    const int head = blockIdx.y;
    const QueryRow row = i < a.N ? backward_row<V>(a, head, static_cast<int>(i), first[i], end[i]) : QueryRow{};
    float* const to = rows + row_at(head, i, a.N);
    to[0] = row.state, to[kRowTile] = row.delta, to[2 * kRowTile] = row.factor;
}

}  // namespace plimsoll::cuda
