// Compiled for AVX-512, as tiles.cpp is.
#include "kernels/cpu/amx/activations.h"

#include "kernels/cpu/amx/lanes.h"

namespace plimsoll::cpu::amx {
namespace {

// 1 / (1 + 2^t). 2^t = 2^n 2^f, |f| <= 1/2, by the series of degree 4 (4e-5); where t is above 126 the result is
// 2^-126. A NaN stays one.
__m512 sigmoid_of_log2(__m512 t) {
    const __m512 bounded = _mm512_min_ps(constant(126), t);  // the second where one is a NaN
    const __m512 n = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(bounded, n);
    __m512 p = constant(9.618129107628477e-3);                  // ln(2)^4 / 24
    p = _mm512_fmadd_ps(p, f, constant(5.550410866482158e-2));  // ln(2)^3 / 6
    p = _mm512_fmadd_ps(p, f, constant(2.402265069591007e-1));  // ln(2)^2 / 2
    p = _mm512_fmadd_ps(p, f, constant(6.931471805599453e-1));  // ln(2)
    p = _mm512_fmadd_ps(p, f, constant(1));
    return _mm512_rcp14_ps(_mm512_add_ps(constant(1), _mm512_scalef_ps(p, n)));
}

// GELU(x) = x sigmoid(2u), 2u = x (kRoot + kRoot kCubic x^2).
constexpr double kLog2E = 1.4426950408889634, kRoot = 2 * 0.79788456080286536, kCubic = 0.044715;

__m512 gelu_weight(__m512 x, __m512 square) {
    return sigmoid_of_log2(
        _mm512_mul_ps(x, _mm512_fmadd_ps(square, constant(-kLog2E * kRoot * kCubic), constant(-kLog2E * kRoot))));
}
__m512 sigmoid(__m512 x) {
    return sigmoid_of_log2(_mm512_mul_ps(x, constant(-kLog2E)));
}

}  // namespace

void gelu_forward(bf16* out, const bf16* x, int64_t n) {
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        const __m512 v = load(x, i, mask);
        store(out, i, mask, _mm512_mul_ps(v, gelu_weight(v, _mm512_mul_ps(v, v))));
    });
}

// d/dx x w = w + x (w - w^2) (kRoot + 3 kRoot kCubic x^2)
void gelu_backward(bf16* dx, const bf16* dout, const bf16* x, int64_t n) {
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        const __m512 v = load(x, i, mask), square = _mm512_mul_ps(v, v), w = gelu_weight(v, square);
        const __m512 inner = _mm512_fmadd_ps(square, constant(3 * kRoot * kCubic), constant(kRoot));
        const __m512 slope = _mm512_fmadd_ps(v, _mm512_mul_ps(_mm512_fnmadd_ps(w, w, w), inner), w);
        store(dx, i, mask, _mm512_mul_ps(load(dout, i, mask), slope));
    });
}

void swiglu_forward(bf16* out, const bf16* gates, const bf16* ups, int64_t n) {
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        const __m512 gate = load(gates, i, mask);
        store(out, i, mask, _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), load(ups, i, mask)));
    });
}

// dgate = d up w (1 + gate (1 - w)), dup = d gate w
void swiglu_backward(bf16* dgates, bf16* dups, const bf16* dout, const bf16* gates, const bf16* ups, int64_t n) {
    for_lanes(n, [&](int64_t i, __mmask16 mask) {
        const __m512 gate = load(gates, i, mask), up = load(ups, i, mask), w = sigmoid(gate);
        const __m512 dw = _mm512_mul_ps(load(dout, i, mask), w);
        const __m512 slope = _mm512_fmadd_ps(gate, _mm512_sub_ps(constant(1), w), constant(1));
        store(dgates, i, mask, _mm512_mul_ps(_mm512_mul_ps(dw, up), slope));
        store(dups, i, mask, _mm512_mul_ps(dw, gate));
    });
}

}  // namespace plimsoll::cpu::amx
