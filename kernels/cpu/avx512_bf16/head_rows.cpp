// Compiled for AVX-512, as tiles.cpp is.
#include "kernels/cpu/avx512_bf16/head_rows.h"

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {

void scale(bf16* to, const bf16* from, float factor, int64_t n) {
    const __m512 by = _mm512_set1_ps(factor);
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair x = load_pair(from, i, mask);
        store_pair(to, i, mask, {_mm512_mul_ps(by, x.even), _mm512_mul_ps(by, x.odd)});
    });
}

float scale_and_dot(bf16* to, const bf16* from, const bf16* other, float factor, int64_t n) {
    const __m512 by = _mm512_set1_ps(factor);
    __m512 even = _mm512_setzero_ps(), odd = even;
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair x = load_pair(from, i, mask), y = load_pair(other, i, mask);
        even = _mm512_fmadd_ps(x.even, y.even, even);
        odd = _mm512_fmadd_ps(x.odd, y.odd, odd);
        store_pair(to, i, mask, {_mm512_mul_ps(by, x.even), _mm512_mul_ps(by, x.odd)});
    });
    return total(_mm512_add_ps(even, odd));
}

}  // namespace plimsoll::cpu::avx512_bf16
