// Compiled for AVX-512, as tiles.cpp is. Products that are added are fused by hand, so that no compiler chooses.
#include "kernels/cpu/avx512_bf16/norm_rows.h"

#include <math.h>  // no inline functions, as <cmath> has

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// A sum of elements, even and odd sixteens apart.
struct Sum {
    __m512 half[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    float total() const { return avx512_bf16::total(_mm512_add_ps(half[0], half[1])); }
};

// As store(), and keeps subnormals, which its instruction makes zero.
void store_all(float* to, int64_t i, __mmask16 mask, __m512 value) {
    store(to, i, mask, value);
}
void store_all(bf16* to, int64_t i, __mmask16 mask, __m512 value) {
    store(to, i, mask, value);
    const __mmask16 small = mask & subnormals(value);
    if (small == 0) [[likely]]
        return;
    _mm256_mask_storeu_epi16(reinterpret_cast<uint16_t*>(to) + i, small, rounded_by_integers(value));
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
    *rstd = 1 / sqrtf(squares.total() / count + eps);
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
              const float* gain, const float* mean, float rstd, bool adds, int64_t first, int64_t C) {
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
        const __m512 sum = _mm512_fmadd_ps(scale, slope, load(dx, at, adds ? mask : __mmask16{0}));
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
                   const float* gain, const float* mean, const float* rstd, bool adds, int64_t rows, int64_t C) {
    for (int64_t row = 0; row < rows; ++row)
        backward(dx, dbranch, gain_sums, bias_sums, dout, x, gain, mean ? mean + row : nullptr, rstd[row], adds,
                 row * C, C);
}

PLIMSOLL_INSTANTIATE_NORM_ROWS

}  // namespace plimsoll::cpu::avx512_bf16
