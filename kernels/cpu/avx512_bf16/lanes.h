// Rows in 16 lanes of fp32. Included only by files compiled for AVX-512; what is here has internal linkage, so that
// nothing of it leaks into code for any CPU.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {
namespace {

constexpr int64_t kLanes = 16;

inline __mmask16 lanes(int64_t left) {
    return static_cast<__mmask16>(left >= kLanes ? 0xffff : (1u << left) - 1);
}

// Of 32 elements.
inline __mmask32 pair_lanes(int64_t left) {
    return left >= 2 * kLanes ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
}

// In every lane; a float is what it was.
inline __m512 constant(double value) {
    return _mm512_set1_ps(static_cast<float>(value));
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

inline void store_bits(bf16* to, int64_t i, __mmask32 mask, __m512i bits) {
    _mm512_mask_storeu_epi16(reinterpret_cast<uint16_t*>(to) + i, mask, bits);
}
// 32 elements that are a whole line, past the caches: others see them after an _mm_sfence.
inline void stream_bits(bf16* to, int64_t i, __m512i bits) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(reinterpret_cast<uint16_t*>(to) + i), bits);
}

// 32 elements of bf16 in two vectors: half the instructions that widening 16 at a time takes.
struct Pair {
    __m512 even, odd;
};
inline Pair pair(__m512i both) {
    const __m512i odd = _mm512_and_si512(both, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(odd)};
}
inline Pair load_pair(const bf16* from, int64_t i, __mmask32 mask) {
    return pair(_mm512_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(from) + i));
}
// Dwords as operands of products: pairs of bf16.
inline __m512bh as_pairs(__m512i dwords) {
    __m512bh pairs;
    std::memcpy(&pairs, &dwords, sizeof pairs);
    return pairs;
}
// The first 16 elements and the next, rounded as store() does, in order.
inline __m512i in_order(__m512 low, __m512 high) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(high, low);
    __m512i bits;
    std::memcpy(&bits, &rounded, sizeof bits);
    return bits;
}

// Where values are subnormal, which the instructions that round make zero.
inline __mmask16 subnormals(__m512 value) {
    return _mm512_fpclass_ps_mask(value, 0x20);
}
// Rounded to nearest by integers, which keep subnormals. No value is a NaN.
inline __m256i rounded_by_integers(__m512 value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}

// Rounded as store() does.
inline void store_pair(bf16* to, int64_t i, __mmask32 mask, Pair pair) {
    struct alignas(64) Order {
        uint16_t of[2 * kLanes];
    };
    static constexpr Order kInterleaved = [] {
        Order order{};
        for (int k = 0; k < 2 * kLanes; ++k) order.of[k] = static_cast<uint16_t>(k / 2 + k % 2 * kLanes);
        return order;
    }();
    const __m512i halves = in_order(pair.even, pair.odd);
    const __m512i bits = _mm512_permutexvar_epi16(_mm512_load_si512(kInterleaved.of), halves);
    store_bits(to, i, mask, bits);
}

// Calls f(i, mask) for 16 lanes at a time.
template <class F>
inline void for_lanes(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, __mmask16{0xffff});
    if (i < n) f(i, lanes(n - i));
}

// Calls f(i, mask) for 32 elements at a time.
template <class F>
inline void for_pairs(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) f(i, __mmask32{0xffffffff});
    if (i < n) f(i, pair_lanes(n - i));
}

// As for_lanes with f(i, mask, half), half 0 and 1 in turns: sums in two chains of additions.
template <class F>
inline void for_halves(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        f(i, __mmask16{0xffff}, 0);
        f(i + kLanes, __mmask16{0xffff}, 1);
    }
    if (i < n) f(i, lanes(n - i), 0);
    if (i + kLanes < n) f(i + kLanes, lanes(n - i - kLanes), 1);
}

// Asks for the array's elements kAhead on to come near, as for_blocks_ahead (kernels/cpu/vector_math.h) does: rows lie
// one after the other.
constexpr int64_t kAhead = 512;
inline void fetch_ahead(int64_t i, const float* data) {
    __builtin_prefetch(data + i + kAhead);
}
inline void fetch_ahead(int64_t i, const bf16* data) {
    __builtin_prefetch(reinterpret_cast<const uint16_t*>(data) + i + kAhead);
}

// The sum of 16 lanes, by halves.
inline float total(__m512 all) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

}  // namespace
}  // namespace plimsoll::cpu::avx512_bf16
