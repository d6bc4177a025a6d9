// Compiled for AVX-512, as tiles.cpp is. Products that are added are fused by hand, so that no compiler chooses.
#include "kernels/cpu/amx/norm_rows.h"

#include <cmath>

#include "kernels/cpu/amx/lanes.h"

namespace plimsoll::cpu::amx {
namespace {

// A sum of elements, even and odd sixteens apart: two chains of additions.
struct Sum {
    __m512 half[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};

    float total() const {
        const __m512 all = _mm512_add_ps(half[0], half[1]);
        const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
};

// Calls f(i, mask, half) for 16 lanes at a time.
template <class F>
void for_halves(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + 2 * kLanes <= n; i += 2 * kLanes) {
        f(i, __mmask16{0xffff}, 0);
        f(i + kLanes, __mmask16{0xffff}, 1);
    }
    if (i < n) f(i, lanes(n - i), 0);
    if (i + kLanes < n) f(i + kLanes, lanes(n - i - kLanes), 1);
}

// Asks for the arrays' elements kAhead on to come near, as for_blocks_ahead (kernels/cpu/vector_math.h): rows lie one
// after the other. The hardware alone takes 5 to 20% longer.
constexpr int64_t kAhead = 512;
void fetch_ahead(int64_t i, const float* data) {
    __builtin_prefetch(data + i + kAhead);
}
void fetch_ahead(int64_t i, const bf16* data) {
    __builtin_prefetch(reinterpret_cast<const uint16_t*>(data) + i + kAhead);
}

// As store(), and keeps subnormals, which its instruction makes zero.
void store_all(float* to, int64_t i, __mmask16 mask, __m512 value) {
    store(to, i, mask, value);
}
void store_all(bf16* to, int64_t i, __mmask16 mask, __m512 value) {
    store(to, i, mask, value);
    constexpr int kSubnormal = 0x20;
    const __mmask16 small = _mm512_mask_fpclass_ps_mask(mask, value, kSubnormal);
    if (small == 0) [[likely]]
        return;
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    _mm512_mask_cvtepi32_storeu_epi16(reinterpret_cast<uint16_t*>(to) + i, small, _mm512_srli_epi32(rounded, 16));
}

// A row whose first element is `first`; mean and rstd are its own.
template <class Out, class Branch>
void forward(Out* out, float* mean, float* rstd, float* sum, const float* x, const Branch* branch, const float* gain,
             const float* bias, int64_t first, int64_t C, float eps) {
    const auto count = static_cast<float>(C);
    __m512 centre = _mm512_setzero_ps();
    Sum values, squares;
    if (branch) {
        for_halves(C, [&](int64_t i, __mmask16 mask, int half) {
            const int64_t at = first + i;
            fetch_ahead(at, x), fetch_ahead(at, branch), fetch_ahead(at, sum), fetch_ahead(at, out);
            const __m512 v = _mm512_add_ps(load(x, at, mask), load(branch, at, mask));
            store(sum, at, mask, v);
            values.half[half] = _mm512_add_ps(values.half[half], v);
        });
        x = sum;
    } else if (mean) {
        for_halves(C, [&](int64_t i, __mmask16 mask, int half) {
            fetch_ahead(first + i, x), fetch_ahead(first + i, out);
            values.half[half] = _mm512_add_ps(values.half[half], load(x, first + i, mask));
        });
    }
    if (mean) *mean = values.total() / count, centre = _mm512_set1_ps(*mean);
    for_halves(C, [&](int64_t i, __mmask16 mask, int half) {
        const __m512 v = _mm512_maskz_sub_ps(mask, load(x, first + i, mask), centre);
        squares.half[half] = _mm512_fmadd_ps(v, v, squares.half[half]);
    });
    *rstd = 1 / std::sqrt(squares.total() / count + eps);
    const __m512 scale = _mm512_set1_ps(*rstd);
    for_lanes(C, [&](int64_t i, __mmask16 mask) {
        const __m512 xhat = _mm512_mul_ps(_mm512_sub_ps(load(x, first + i, mask), centre), scale);
        const __m512 start = bias ? load(bias, i, mask) : _mm512_setzero_ps();
        store_all(out, first + i, mask, _mm512_fmadd_ps(xhat, load(gain, i, mask), start));
    });
}

// Likewise.
template <class Out>
void backward(float* dx, Out* dbranch, float* gain_sums, float* bias_sums, const Out* dout, const float* x,
              const float* gain, const float* mean, float rstd, int64_t first, int64_t C) {
    const __m512 centre = mean ? _mm512_set1_ps(*mean) : _mm512_setzero_ps(), scale = _mm512_set1_ps(rstd);
    const auto normed = [&](int64_t at, __mmask16 mask) {
        return _mm512_mul_ps(_mm512_sub_ps(load(x, at, mask), centre), scale);
    };
    Sum g, g_xhat;
    for_halves(C, [&](int64_t i, __mmask16 mask, int half) {
        const int64_t at = first + i;
        fetch_ahead(at, x), fetch_ahead(at, dout), fetch_ahead(at, dx);
        const __m512 d = load(dout, at, mask), weight = load(gain, i, mask);
        g.half[half] = _mm512_fmadd_ps(d, weight, g.half[half]);
        g_xhat.half[half] = _mm512_fmadd_ps(_mm512_mul_ps(d, weight), normed(at, mask), g_xhat.half[half]);
    });
    const float inverse = 1 / static_cast<float>(C);
    const __m512 mean_g = _mm512_set1_ps(mean ? inverse * g.total() : 0);
    const __m512 mean_g_xhat = _mm512_set1_ps(inverse * g_xhat.total());
    for_lanes(C, [&](int64_t i, __mmask16 mask) {
        const int64_t at = first + i;
        const __m512 d = load(dout, at, mask), xhat = normed(at, mask);
        const __m512 inner = _mm512_fmsub_ps(d, load(gain, i, mask), mean_g);
        const __m512 slope = _mm512_fnmadd_ps(xhat, mean_g_xhat, inner);
        const __m512 sum = _mm512_fmadd_ps(scale, slope, load(dx, at, mask));
        store(dx, at, mask, sum);
        if (dbranch) store_all(dbranch, at, mask, sum);
        store(gain_sums, i, mask, _mm512_fmadd_ps(d, xhat, load(gain_sums, i, mask)));
        if (bias_sums) store(bias_sums, i, mask, _mm512_add_ps(load(bias_sums, i, mask), d));
    });
}

}  // namespace

template <class Out, class Branch>
void norm_forward(Out* out, float* mean, float* rstd, float* sum, const float* x, const Branch* branch,
                  const float* gain, const float* bias, int64_t rows, int64_t C, float eps) {
    for (int64_t row = 0; row < rows; ++row)
        forward(out, mean ? mean + row : nullptr, rstd + row, sum, x, branch, gain, bias, row * C, C, eps);
}

template <class Out>
void norm_backward(float* dx, Out* dbranch, float* gain_sums, float* bias_sums, const Out* dout, const float* x,
                   const float* gain, const float* mean, const float* rstd, int64_t rows, int64_t C) {
    for (int64_t row = 0; row < rows; ++row)
        backward(dx, dbranch, gain_sums, bias_sums, dout, x, gain, mean ? mean + row : nullptr, rstd[row], row * C, C);
}

PLIMSOLL_INSTANTIATE_NORM_ROWS

}  // namespace plimsoll::cpu::amx
