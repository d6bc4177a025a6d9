// Rows in 16 lanes of fp32. Included only by files compiled for AVX-512; what is here has internal linkage, so that
// nothing of it leaks into code for any CPU.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::amx {
namespace {

constexpr int64_t kLanes = 16;

inline __mmask16 lanes(int64_t left) {
    return static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1);
}

inline __m512 load(const float* from, int64_t i, __mmask16 mask) {
    return _mm512_maskz_loadu_ps(mask, from + i);
}
inline __m512 load(const bf16* from, int64_t i, __mmask16 mask) {
    const __m256i upper = _mm256_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(from) + i);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(upper), 16));
}

inline void store(float* to, int64_t i, __mmask16 mask, __m512 value) {
    _mm512_mask_storeu_ps(to + i, mask, value);
}
// Rounded to nearest; subnormals become zero.
inline void store(bf16* to, int64_t i, __mmask16 mask, __m512 value) {
    const __m256bh rounded = _mm512_cvtneps_pbh(value);
    __m256i upper;
    std::memcpy(&upper, &rounded, sizeof upper);
    _mm256_mask_storeu_epi16(reinterpret_cast<uint16_t*>(to) + i, mask, upper);
}

// Calls f(i, mask) for 16 lanes at a time.
template <class F>
inline void for_lanes(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, __mmask16{0xffff});
    if (i < n) f(i, lanes(n - i));
}

}  // namespace
}  // namespace plimsoll::cpu::amx
