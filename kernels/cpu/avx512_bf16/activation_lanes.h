// Activation functions in 16 lanes of fp32. Included as lanes.h is.
#pragma once

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// c 2^(i/32) in fp32, such that n added to the exponent and i below it, (32 n + i) << 18, gives c 2^(n + i/32).
struct alignas(64) Powers {
    uint32_t bits[2 * kLanes];
};
constexpr Powers powers(double c) {
    Powers powers{};
    for (uint32_t i = 0; i < 2 * kLanes; ++i, c *= 1.0218971486541166)
        powers.bits[i] = __builtin_bit_cast(uint32_t, static_cast<float>(c)) - (i << 18);
    return powers;
}
constexpr double kShift = 3 << 17;  // the last bit of a sum with it is 1/32

// c 2^n of a number that was shifted, rounded to a multiple of 1/32 by that.
inline __m512 power(const Powers& powers, __m512 shifted) {
    const __m512i n = _mm512_castps_si512(shifted);
    const __m512 low = _mm512_load_ps(powers.bits), high = _mm512_load_ps(powers.bits + kLanes);
    const __m512i bits = _mm512_castps_si512(_mm512_permutex2var_ps(low, n, high));
    return _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_slli_epi32(n, 18)));
}

// kCentre is nearest to 1 / ln 2 among multiples of 1/32; errors above and below are equal.
constexpr double kCentre = 46.0 / 32;
constexpr Powers kCentred = powers((1 + 4.6e-5) / kCentre);

// 1 / (1 + 2^(a b)), |a b| below 126. 2^(a b) = 2^n 2^f, n a multiple of 1/32 and |f| <= 1/64: a power from the table
// times (kCentre + f), the line that is within 5e-5 of 2^f.
inline __m512 sigmoid_of_log2(__m512 a, __m512 b) {
    const __m512 shifted = _mm512_fmadd_ps(a, b, constant(kShift));
    const __m512 line = _mm512_fmsub_ps(a, b, _mm512_sub_ps(shifted, constant(kShift + kCentre)));
    return _mm512_rcp14_ps(_mm512_fmadd_ps(power(kCentred, shifted), line, constant(1)));
}

// 2^(a b) to a few roundings in fp32, |a b| below 126: a power from the table times 2^f by its series.
inline __m512 exact_power(__m512 a, __m512 b) {
    static constexpr Powers kPowers = powers(1);
    constexpr double kLn2 = 0.6931471805599453;
    const __m512 shifted = _mm512_fmadd_ps(a, b, constant(kShift));
    const __m512 f = _mm512_fmsub_ps(a, b, _mm512_sub_ps(shifted, constant(kShift)));
    __m512 series = _mm512_fmadd_ps(f, constant(kLn2 * kLn2 * kLn2 / 6), constant(kLn2 * kLn2 / 2));
    series = _mm512_fmadd_ps(_mm512_fmadd_ps(series, f, constant(kLn2)), f, constant(1));
    return _mm512_mul_ps(power(kPowers, shifted), series);
}

// x where |x| is below the limit, and there the limit with x's sign; of a NaN, too.
inline __m512 bounded(__m512 x, double limit) {
    constexpr int kSmallerMagnitude = 2;
    return _mm512_range_ps(x, constant(limit), kSmallerMagnitude);
}

// GELU(x) = x sigmoid(2u), 2u = x (kRoot + kRoot kCubic x^2). Beyond the limits the sigmoid is 1, or less than 2^-117;
// powers that are subnormal would take a hundred times as long.
constexpr double kLog2E = 1.4426950408889634, kRoot = 2 * 0.79788456080286536, kCubic = 0.044715;
constexpr double kGeluLimit = 9.75, kSigmoidLimit = 86;

inline __m512 gelu_weight(__m512 x, __m512 square) {
    return sigmoid_of_log2(x, _mm512_fmadd_ps(square, constant(-kLog2E * kRoot * kCubic), constant(-kLog2E * kRoot)));
}
inline __m512 sigmoid(__m512 x) {
    return sigmoid_of_log2(bounded(x, kSigmoidLimit), constant(-kLog2E));
}

// What bounding hides of a NaN, a factor of x itself brings back.
inline __m512 gelu(__m512 x) {
    const __m512 near = bounded(x, kGeluLimit);
    return _mm512_mul_ps(x, gelu_weight(near, _mm512_mul_ps(near, near)));
}

// d/dx x w = w + x (w - w^2) (kRoot + 3 kRoot kCubic x^2)
inline __m512 gelu_gradient(__m512 dout, __m512 x) {
    const __m512 near = bounded(x, kGeluLimit), square = _mm512_mul_ps(near, near), w = gelu_weight(near, square);
    const __m512 inner = _mm512_fmadd_ps(square, constant(3 * kRoot * kCubic), constant(kRoot));
    return _mm512_mul_ps(dout, _mm512_fmadd_ps(x, _mm512_mul_ps(_mm512_fnmadd_ps(w, w, w), inner), w));
}

inline __m512 swiglu(__m512 gate, __m512 up) {
    return _mm512_mul_ps(_mm512_mul_ps(gate, sigmoid(gate)), up);
}

// dgate = d up w (1 + gate (1 - w)), dup = d gate w
struct SwigluGradient {
    __m512 gate, up;
};
inline SwigluGradient swiglu_gradient(__m512 dout, __m512 gate, __m512 up) {
    const __m512 w = sigmoid(gate), dw = _mm512_mul_ps(dout, w);
    const __m512 slope = _mm512_fmadd_ps(gate, _mm512_sub_ps(constant(1), w), constant(1));
    return {_mm512_mul_ps(_mm512_mul_ps(dw, up), slope), _mm512_mul_ps(dw, gate)};
}

// e^x for x <= 0, 0 below -kSigmoidLimit. A NaN stays one: of two operands max returns the second.
inline __m512 falling_exponential(__m512 x) {
    const __m512 limit = constant(-kSigmoidLimit), near = _mm512_max_ps(limit, x);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), exact_power(near, constant(kLog2E)));
}

}  // namespace
}  // namespace plimsoll::cpu::avx512_bf16
