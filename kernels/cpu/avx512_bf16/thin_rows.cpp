// Compiled for AVX-512, as tiles.cpp is.
#include "kernels/cpu/avx512_bf16/thin_rows.h"

#include "kernels/cpu/avx512_bf16/lanes.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

float widened(const bf16* from, int64_t i) {
    uint16_t bits;
    std::memcpy(&bits, reinterpret_cast<const char*>(from) + 2 * i, sizeof bits);
    return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

struct alignas(64) Order {
    uint32_t of[kLanes];
};
// The first 16 of 32 elements, or the last, of the even and the odd ones.
template <int kHalf>
__m512 interleaved(Pair pair) {
    static constexpr Order kOrder = [] {
        Order order{};
        for (uint32_t i = 0; i < kLanes; ++i) order.of[i] = kHalf * kLanes / 2 + i / 2 + i % 2 * kLanes;
        return order;
    }();
    return _mm512_permutex2var_ps(pair.even, _mm512_load_si512(kOrder.of), pair.odd);
}

Pair load_sums(const float* sums) {
    return {_mm512_loadu_ps(sums), _mm512_loadu_ps(sums + kLanes)};
}

void store_result(float* to, int64_t i, __mmask32 mask, Pair sums, bool accumulate) {
    const auto low = static_cast<__mmask16>(mask), high = static_cast<__mmask16>(mask >> kLanes);
    const __m512 first = interleaved<0>(sums), last = interleaved<1>(sums);
    store(to, i, low, accumulate ? _mm512_add_ps(load(to, i, low), first) : first);
    store(to, i + kLanes, high, accumulate ? _mm512_add_ps(load(to, i + kLanes, high), last) : last);
}
void store_result(bf16* to, int64_t i, __mmask32 mask, Pair sums, bool accumulate) {
    if (accumulate) {
        const Pair before = load_pair(to, i, mask);
        sums = {_mm512_add_ps(before.even, sums.even), _mm512_add_ps(before.odd, sums.odd)};
    }
    store_pair(to, i, mask, sums);
}

// thin_rows for up to kRows rows, whose sums stay in registers.
template <int kRows>
void add_rows(float* sums, int64_t apart, const float* a, const bf16* b, int64_t b_row, int64_t columns, int64_t K) {
    for (int64_t n = 0; n < columns; n += kThinPart) {
        const __mmask32 mask = pair_lanes(columns - n);
        Pair sum[kRows];
        for (int m = 0; m < kRows; ++m) sum[m] = load_sums(sums + m * apart + n);
        for (int64_t k = 0; k < K; ++k) {
            const Pair x = load_pair(b, k * b_row + n, mask);
            for (int m = 0; m < kRows; ++m) {
                const __m512 factor = _mm512_set1_ps(a[k * kThin + m]);
                sum[m].even = _mm512_fmadd_ps(factor, x.even, sum[m].even);
                sum[m].odd = _mm512_fmadd_ps(factor, x.odd, sum[m].odd);
            }
        }
        for (int m = 0; m < kRows; ++m) {
            _mm512_storeu_ps(sums + m * apart + n, sum[m].even);
            _mm512_storeu_ps(sums + m * apart + n + kLanes, sum[m].odd);
        }
    }
}

int64_t padded(int64_t columns) {
    return (columns + kThinPart - 1) / kThinPart * kThinPart;
}

// 32 elements as the operand of an instruction.
__m512bh operand(const bf16* from, int64_t i, __mmask32 mask) {
    return as_pairs(_mm512_maskz_loadu_epi16(mask, reinterpret_cast<const uint16_t*>(from) + i));
}

// The products of a row with up to kThinColumns columns, pairs of K summed as tiles sum them.
void dots(float* to, const bf16* a, int64_t row, const bf16* b, int64_t b_column, int64_t columns, int64_t K) {
    int64_t column[kThinColumns];
    for (int64_t n = 0; n < kThinColumns; ++n) column[n] = n < columns ? n * b_column : 0;  // there is always a first
    __m512 sums[kThinColumns];
    for (__m512& sum : sums) sum = _mm512_setzero_ps();
    for_pairs(K, [&](int64_t k, __mmask32 mask) {
        const __m512bh x = operand(a, row + k, mask);
        for (int n = 0; n < kThinColumns; ++n) sums[n] = _mm512_dpbf16_ps(sums[n], x, operand(b, column[n] + k, mask));
    });
    for (int64_t n = 0; n < columns; ++n) to[n] = total(sums[n]);
}

}  // namespace

void widen_pairs(float* to, const bf16* from, int64_t columns) {
    for_pairs(columns, [&](int64_t n, __mmask32 mask) {
        const Pair wide = load_pair(from, n, mask);
        _mm512_storeu_ps(to + n, wide.even), _mm512_storeu_ps(to + n + kLanes, wide.odd);
    });
}

void write_pairs(float* to, const float* sums, int64_t columns, bool accumulate) {
    for_pairs(columns, [&](int64_t n, __mmask32 mask) { store_result(to, n, mask, load_sums(sums + n), accumulate); });
}

template <class C>
void thin_depth(C* c, int64_t c_row, const bf16* a, int64_t a_row, const float* b, int64_t rows, int64_t columns,
                int64_t K, bool accumulate) {
    const int64_t apart = padded(columns);
    for (int64_t r = 0; r < rows; ++r) {
        __m512 factors[kThin];
        for (int64_t k = 0; k < K; ++k) factors[k] = _mm512_set1_ps(widened(a, r * a_row + k));
        for_pairs(columns, [&](int64_t n, __mmask32 mask) {
            Pair sum{_mm512_setzero_ps(), _mm512_setzero_ps()};
            for (int64_t k = 0; k < K; ++k) {
                const Pair of_b = load_sums(b + k * apart + n);
                sum = {_mm512_fmadd_ps(factors[k], of_b.even, sum.even),
                       _mm512_fmadd_ps(factors[k], of_b.odd, sum.odd)};
            }
            store_result(c, r * c_row + n, mask, sum, accumulate);
        });
    }
}

void thin_rows(float* sums, const float* a, const bf16* b, int64_t b_row, int64_t rows, int64_t columns, int64_t K) {
    const int64_t apart = padded(columns);
    if (rows <= kThin / 2) return add_rows<kThin / 2>(sums, apart, a, b, b_row, columns, K);
    add_rows<kThin>(sums, apart, a, b, b_row, columns, K);
}

template <class C>
void thin_columns(C* c, int64_t c_row, const bf16* a, int64_t a_row, const bf16* b, int64_t b_column, const float* bias,
                  int64_t rows, int64_t columns, int64_t K, bool accumulate) {
    const __mmask16 mask = lanes(columns);
    const __m512 start = bias ? load(bias, 0, mask) : _mm512_setzero_ps();
    for (int64_t r = 0; r < rows; ++r) {
        alignas(64) float sums[kLanes] = {};
        dots(sums, a, r * a_row, b, b_column, columns, K);
        __m512 sum = _mm512_add_ps(_mm512_load_ps(sums), start);
        if (accumulate) sum = _mm512_add_ps(load(c, r * c_row, mask), sum);
        store(c, r * c_row, mask, sum);
    }
}

PLIMSOLL_INSTANTIATE_THIN(bf16)
PLIMSOLL_INSTANTIATE_THIN(float)

}  // namespace plimsoll::cpu::avx512_bf16
