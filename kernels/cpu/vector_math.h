// What elementwise CPU kernels share: stores, an exp that compilers vectorise, sums and maxima in a fixed order, and
// when threads pay.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "kernels/dtype.h"

namespace plimsoll::cpu {

// to = value, rounded to T. GCC 12 does not vectorise a `#pragma omp simd` loop that assigns a temporary of class type;
// assigning its member makes bf16 results 3 to 12 times faster.
template <class T>
inline void store(T& to, Accumulator<T> value) {
    to = value;
}
inline void store(bf16& to, float value) {
    to.bits = bf16(value).bits;
}

// e^x to 2 ulp, without a call or a branch. Below -87.33 it is 0 (no subnormals), above 88.37 infinity
// (std::exp: 88.72); a NaN stays one. x = n ln 2 + r, |r| <= ln 2 / 2; Cephes' polynomial for e^r.
inline float exp_fast(float x) {
    constexpr float kLog2E = 1.44269504f, kRounder = 0x1.8p23f;  // adding 1.5 * 2^23 leaves n in the low bits
    constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
    const float shifted = x * kLog2E + kRounder;
    const float n = shifted - kRounder;
    const float r = (x - n * kLn2High) - n * kLn2Low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const float power = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) + 127u) << 23);  // 2^n
    const float y = p * power;
    const float floored = x < -87.33f ? 0.0f : y;
    return x > 88.37f ? std::numeric_limits<float>::infinity() : floored;
}
inline double exp_fast(double x) {
    return std::exp(x);
}

// Sums and maxima run in kLanes interleaved partial results, folded by halves: the order is written here and not left
// to the compiler, whose own reductions change order with the alignment of the data.
inline constexpr int64_t kLanes = 32;

// Leaves lane[0] op .. op lane[2 width - 1] in lane[0]. Widths are known when compiled, so that nothing of it is a
// loop.
template <int64_t width, class R, class Op>
inline void fold_lanes(R* lane, Op op) {
#pragma omp simd
    for (int64_t l = 0; l < width; ++l) lane[l] = op(lane[l], lane[l + width]);
    if constexpr (width > 1) fold_lanes<width / 2>(lane, op);
}

// Calls f(begin, end) for blocks of [0, n), and asks for the arrays' elements four blocks on to come near, to be
// written if they are not const. For loops with much arithmetic over memory that is in no cache: the hardware does not
// look far enough ahead of them. Nothing is read of what is asked for, so that it may lie past an array's end.
template <class F, class... T>
inline void for_blocks_ahead(int64_t n, F&& f, T*... arrays) {
    constexpr int64_t kBlock = 128, kStep = 64 / static_cast<int64_t>(std::max({sizeof(T)...}));  // cache lines
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        for (int64_t i = begin + 4 * kBlock; i < begin + 5 * kBlock; i += kStep)
            (__builtin_prefetch(arrays + i, std::is_const_v<T> ? 0 : 1), ...);
        f(begin, n - begin < kBlock ? n : begin + kBlock);
    }
}

// sum of term(0) .. term(n - 1), each an R, in `lanes` partial results: a power of two, for short sums a small one.
// `arrays` that are named are fetched ahead.
template <class R, int64_t lanes = kLanes, class Term, class... T>
inline R lane_sum(int64_t n, Term&& term, const T*... arrays) {
    R lane[lanes] = {};
    const int64_t whole = n / lanes * lanes;
    const auto add = [&](int64_t begin, int64_t end) {
        for (int64_t c = begin; c < end; c += lanes) {
#pragma omp simd
            for (int64_t l = 0; l < lanes; ++l) lane[l] += term(c + l);
        }
    };
    if constexpr (sizeof...(arrays) > 0)
        for_blocks_ahead(whole, add, arrays...);
    else
        add(0, whole);
    R rest = 0;
    for (int64_t c = whole; c < n; ++c) rest += term(c);
    fold_lanes<lanes / 2>(lane, [](R a, R b) { return a + b; });
    return lane[0] + rest;
}

// The largest of `start` and term(0) .. term(n - 1). NaNs are passed over.
template <class R, class Term>
inline R lane_max(int64_t n, R start, Term&& term) {
    R lane[kLanes];
    for (R& one : lane) one = start;
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) {
#pragma omp simd
        for (int64_t l = 0; l < kLanes; ++l) {
            const R value = term(c + l);
            lane[l] = value > lane[l] ? value : lane[l];
        }
    }
    fold_lanes<kLanes / 2>(lane, [](R a, R b) { return b > a ? b : a; });
    R result = lane[0];
    for (; c < n; ++c) result = term(c) > result ? term(c) : result;
    return result;
}

template <class R>
inline R sigmoid_fast(R x) {
    return R(1) / (R(1) + exp_fast(-x));
}

// Whether an op over that many elements repays starting threads: a region costs a few microseconds, an element about a
// third of a nanosecond.
inline bool worth_threads(int64_t elements) {
    return elements >= 16384;
}

}  // namespace plimsoll::cpu
