// What tiled attention does with rows of a tile between its products, in AVX-512 whatever the rest is compiled for.
// Called only where available() says yes (tiles.h).
#pragma once

#include <cstdint>

#define PLIMSOLL_VARIANT(Trait, header) struct Trait;
namespace plimsoll {
struct bf16;
#include "kernels/attention/variants.def"
}  // namespace plimsoll
#undef PLIMSOLL_VARIANT

namespace plimsoll::cpu::avx512_bf16 {

// Queries of a tile: the lanes of its rows. Rows of a tile are 64-byte aligned and lie kTileQueries elements apart.
inline constexpr int64_t kTileQueries = 64;

// In place of `keys` rows of scores their weights: V::weight of score times factor, 0 where the score is -infinity.
// e^x to 3e-6, within |x| <= 87. `lse` and `bias` per query; `sum` of each query's weights grows by these, if it is not
// null. Keys ascend.
template <class V>
void weigh(float* scores, int64_t keys, float factor, const float* lse, const float* bias, float* sum);

// The same for backward, which leaves scores as they are: writes weights to bf16, and in place of the gradients of
// weights those of scores (score_gradient, kernels/attention/row.h), 0 where masked, and these to bf16 too. To bf16: in
// blocks of 32 queries, keys as rows of 32 elements, `apart` elements from block to block.
template <class V>
void weigh_gradients(bf16* weights, bf16* dscores, int64_t apart, const float* scores, float* gradients, int64_t keys,
                     float factor, const float* lse, const float* bias, const float* delta);

// to = from scale gate, n elements, rounded.
void store_scaled(bf16* to, const float* from, int64_t n, float scale, float gate);

// The sum of a[i] b[i] over n elements.
float dot(const bf16* a, const bf16* b, int64_t n);

// What files that define them instantiate for every weighting.
#define PLIMSOLL_INSTANTIATE_ATTENTION_ROWS(V)                                                                  \
    template void weigh<V>(float*, int64_t, float, const float*, const float*, float*);                         \
    template void weigh_gradients<V>(bf16*, bf16*, int64_t, const float*, float*, int64_t, float, const float*, \
                                     const float*, const float*);

}  // namespace plimsoll::cpu::avx512_bf16
