// Compiled for AVX-512, as tiles.cpp is.
#include "kernels/cpu/avx512_bf16/cross_entropy_rows.h"

#include <math.h>  // no inline functions, as <cmath> has

#include <limits>

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// e^x as exp_fast (kernels/cpu/vector_math.h): 0 below -87.33, where floats become subnormal, and for -inf; a NaN stays
// one. x is not +inf.
__m512 exponential(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, constant(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    const __m512 r = _mm512_fnmadd_ps(n, constant(-2.12194440e-4f), _mm512_fnmadd_ps(n, constant(0.693359375f), x));
    __m512 p = constant(1.9875691500e-4f);
    p = _mm512_fmadd_ps(p, r, constant(1.3981999507e-3f));
    p = _mm512_fmadd_ps(p, r, constant(8.3334519073e-3f));
    p = _mm512_fmadd_ps(p, r, constant(4.1665795894e-2f));
    p = _mm512_fmadd_ps(p, r, constant(1.6666665459e-1f));
    p = _mm512_fmadd_ps(p, r, constant(5.0000001201e-1f));
    p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), constant(1));
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, constant(-87.33f), _CMP_NLT_UQ), p, n);
}

}  // namespace

template <class T>
void add_logits(float* max, float* sum, const T* logits, int64_t n) {
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    constexpr int64_t kBlock = 1024;  // whose logits stay in the first-level cache until they are summed
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const int64_t count = n - begin < kBlock ? n - begin : kBlock;
        __m512 largest = constant(*max), sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        for_lanes(count, [&](int64_t i, __mmask16 mask) {  // the second operand where the first is a NaN
            fetch_ahead(begin + i, logits);
            largest = _mm512_mask_max_ps(largest, mask, load(logits, begin + i, mask), largest);
        });
        const float above = _mm512_reduce_max_ps(largest);
        const float shift = above == -kInfinity ? 0 : above;  // of a row of -inf so far
        for_halves(count, [&](int64_t i, __mmask16 mask, int half) {
            const __m512 x = _mm512_sub_ps(load(logits, begin + i, mask), constant(shift));
            sums[half] = _mm512_mask_add_ps(sums[half], mask, sums[half], exponential(x));
        });
        const float added = total(_mm512_add_ps(sums[0], sums[1]));
        *sum = (*max == above ? *sum : *sum * expf(*max - shift)) + added;
        *max = above;
    }
}

template <class T>
void softmax_gradient(T* logits, int64_t n, float lse, float factor) {
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        fetch_ahead(i, logits);
        const __m512 p = exponential(_mm512_sub_ps(load(logits, i, mask), constant(lse)));
        store(logits, i, mask, _mm512_mul_ps(p, constant(factor)));
    });
}

template void add_logits(float*, float*, const float*, int64_t);
template void add_logits(float*, float*, const bf16*, int64_t);
template void softmax_gradient(float*, int64_t, float, float);
template void softmax_gradient(bf16*, int64_t, float, float);

}  // namespace plimsoll::cpu::avx512_bf16
