// Compiled for AVX-512, as tiles.cpp is. Of the weightings' functions it has instances of its own: for a Math that only
// this file knows.
#include "kernels/cpu/avx512_bf16/attention_rows.h"

#include "kernels/attention/row.h"
#include "kernels/attention/variants.h"
#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// Loops of these become vectors: no calls, no branches.
struct LaneMath {
    // 2^t = 2^n 2^f, |f| <= 1/2, by the series of degree 5. A NaN stays one.
    [[gnu::always_inline]] static float exp(float x) {
        constexpr float kLog2E = 1.44269504f, kRounder = 0x1.8p23f, kBound = 87;
        const float floored = x < -kBound ? -kBound : x, bounded = floored > kBound ? kBound : floored;
        const float shifted = bounded * kLog2E + kRounder, n = shifted - kRounder, f = bounded * kLog2E - n;
        float p = 1.33335581e-3f;    // ln(2)^5 / 120
        p = p * f + 9.61812911e-3f;  // ln(2)^4 / 24
        p = p * f + 5.55041087e-2f;  // ln(2)^3 / 6
        p = p * f + 2.40226507e-1f;  // ln(2)^2 / 2
        p = p * f + 6.93147181e-1f;  // ln(2)
        p = p * f + 1.0f;
        return p * __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, shifted) + 127u) << 23);
    }
    [[gnu::always_inline]] static float reciprocal(float x) { return 1.0f / x; }
};
using Row = RowState<float, LaneMath>;

constexpr float kMasked = -__builtin_inff();

// 32 elements, rounded.
void store_pair(bf16* to, int64_t i, const float* from) {
    const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_load_ps(from + kLanes), _mm512_load_ps(from));
    std::memcpy(reinterpret_cast<uint16_t*>(to) + i, &pair, sizeof pair);
}

}  // namespace

template <class V>
void weigh(float* scores, int64_t keys, float factor, const float* lse, const float* bias, float* sum) {
    for (float* row = scores; row < scores + keys * kTileQueries; row += kTileQueries) {
#pragma omp simd aligned(row, lse, bias : 64)
        for (int64_t i = 0; i < kTileQueries; ++i) {
            const float s = row[i], weight = V::weight(s * factor, Row{.lse = lse[i], .bias = bias[i]});
            row[i] = s == kMasked ? 0.0f : weight;
        }
        if (!sum) continue;
#pragma omp simd aligned(row, sum : 64)
        for (int64_t i = 0; i < kTileQueries; ++i) sum[i] += row[i];
    }
}

template <class V>
void weigh_gradients(bf16* weights, bf16* dscores, int64_t apart, const float* scores, float* gradients, int64_t keys,
                     float factor, const float* lse, const float* bias, const float* delta) {
    alignas(64) float of_row[kTileQueries];
    for (int64_t j = 0; j < keys; ++j) {
        const float* const s = scores + j * kTileQueries;
        float* const g = gradients + j * kTileQueries;
#pragma omp simd aligned(s, lse, bias : 64)
        for (int64_t i = 0; i < kTileQueries; ++i) {
            const float weight = V::weight(s[i] * factor, Row{.lse = lse[i], .bias = bias[i]});
            of_row[i] = s[i] == kMasked ? 0.0f : weight;
        }
#pragma omp simd aligned(s, g, lse, bias, delta : 64)
        for (int64_t i = 0; i < kTileQueries; ++i) {
            const float ds =
                score_gradient<V>(s[i] * factor, of_row[i], g[i], delta[i], Row{.lse = lse[i], .bias = bias[i]});
            g[i] = s[i] == kMasked ? 0.0f : ds;
        }
        for (int64_t block = 0; block < 2; ++block) {
            const int64_t at = block * apart + 32 * j;
            store_pair(weights, at, of_row + 32 * block);
            store_pair(dscores, at, g + 32 * block);
        }
    }
}

void store_scaled(bf16* to, const float* from, int64_t n, float scale, float gate) {
    const __m512 first = constant(scale), second = constant(gate);
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        store(to, i, mask, _mm512_mul_ps(_mm512_mul_ps(load(from, i, mask), first), second));
    });
}

float dot(const bf16* a, const bf16* b, int64_t n) {
    __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for_halves(n, [&](int64_t i, __mmask16 mask, int half) {
        sum[half] = _mm512_fmadd_ps(load(a, i, mask), load(b, i, mask), sum[half]);
    });
    return total(_mm512_add_ps(sum[0], sum[1]));
}

#define PLIMSOLL_VARIANT(Trait, header) PLIMSOLL_INSTANTIATE_ATTENTION_ROWS(Trait)
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT

}  // namespace plimsoll::cpu::avx512_bf16
