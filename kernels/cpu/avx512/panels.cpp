// Compiled for AVX-512 on every x86-64, and used where the processor that runs has it.
#include "kernels/cpu/avx512/panels.h"

#include <immintrin.h>
#include <stdlib.h>  // no inline functions, as <cstdlib> has

namespace plimsoll::cpu::avx512 {
namespace {

constexpr int64_t kLanes = 16;

__mmask16 lanes(int64_t count) {
    return static_cast<__mmask16>(count >= kLanes ? 0xffff : count > 0 ? (1u << count) - 1 : 0);
}

// Which lanes of two rows, `step` apart, a step of a transposition exchanges.
struct alignas(64) Exchange {
    int32_t low[kLanes], high[kLanes];
};
constexpr Exchange exchange(int step) {
    Exchange order{};
    for (int l = 0; l < kLanes; ++l) {
        order.low[l] = l & step ? kLanes + l - step : l;
        order.high[l] = l & step ? kLanes + l : l + step;
    }
    return order;
}
constexpr Exchange kExchanges[] = {exchange(1), exchange(2), exchange(4), exchange(8)};

template <int kStep>
void exchange_rows(__m512 (&row)[kLanes]) {
    constexpr int kIndex = kStep == 1 ? 0 : kStep == 2 ? 1 : kStep == 4 ? 2 : 3;
    const __m512i low = _mm512_load_si512(kExchanges[kIndex].low), high = _mm512_load_si512(kExchanges[kIndex].high);
    for (int i = 0; i < kLanes; ++i) {
        if (i & kStep) continue;
        const __m512 a = row[i], b = row[i + kStep];
        row[i] = _mm512_permutex2var_ps(a, low, b), row[i + kStep] = _mm512_permutex2var_ps(a, high, b);
    }
}

// 16 rows of `from`, `across` apart, of which `count` are there, as columns of `to`, `apart` floats between its rows.
void turn(float* to, int64_t apart, const float* from, int64_t across, int64_t count, int64_t K) {
    for (int64_t k = 0; k < K; k += kLanes) {
        const __mmask16 there = lanes(K - k);
        __m512 row[kLanes];
        for (int64_t i = 0; i < kLanes; ++i)
            row[i] = i < count ? _mm512_maskz_loadu_ps(there, from + i * across + k) : _mm512_setzero_ps();
        exchange_rows<1>(row), exchange_rows<2>(row), exchange_rows<4>(row), exchange_rows<8>(row);
        for (int64_t i = 0; i < kLanes && k + i < K; ++i) _mm512_storeu_ps(to + (k + i) * apart, row[i]);
    }
}

}  // namespace

bool available() {
    static const bool is = [] {
        const char* const wanted = ::getenv("PLIMSOLL_AVX512");
        return !(wanted && wanted[0] == '0' && wanted[1] == 0) && __builtin_cpu_supports("avx512f");
    }();
    return is;
}

// Row after row of `from` where those are of one k: in the order of memory, as far as rows are long.
void pack_left(float* to, int64_t panel, const float* from, int64_t across, int64_t along, int64_t count, int64_t K) {
    if (along == 1) {
        for (int64_t i = 0; i < count; i += kPanelRows, to += panel)
            turn(to, kPanelApart, from + i * across, across, count - i < kPanelRows ? count - i : kPanelRows, K);
        return;
    }
    for (int64_t k = 0; k < K; ++k) {
        float* panel_of_row = to + k * kPanelApart;
        for (int64_t i = 0; i < count; i += kPanelRows, panel_of_row += panel) {
            const __mmask16 mask = lanes(count - i < kPanelRows ? count - i : kPanelRows);
            _mm512_storeu_ps(panel_of_row, _mm512_maskz_loadu_ps(mask, from + k * along + i));
        }
    }
}

void pack_right(float* to, int64_t panel, const float* from, int64_t across, int64_t along, int64_t count, int64_t K) {
    if (along == 1) {
        for (int64_t i = 0; i < count; i += kPanelColumns, to += panel) {
            turn(to, kPanelColumns, from + i * across, across, count - i, K);
            turn(to + kLanes, kPanelColumns, from + (i + kLanes) * across, across, count - i - kLanes, K);
        }
        return;
    }
    for (int64_t k = 0; k < K; ++k) {
        float* panel_of_row = to + k * kPanelColumns;
        for (int64_t i = 0; i < count; i += kPanelColumns, panel_of_row += panel) {
            const float* const row = from + k * along + i;
            _mm512_storeu_ps(panel_of_row, _mm512_maskz_loadu_ps(lanes(count - i), row));
            _mm512_storeu_ps(panel_of_row + kLanes, _mm512_maskz_loadu_ps(lanes(count - i - kLanes), row + kLanes));
        }
    }
}

void multiply(float* c, int64_t c_row, const float* left, const float* right, int64_t K, int64_t rows, int64_t columns,
              bool fresh, const float* bias) {
    const __mmask16 low = lanes(columns), high = lanes(columns - kLanes);
    __m512 sums[kPanelRows][2];
#pragma GCC unroll 14
    for (int64_t r = 0; r < kPanelRows; ++r) {
        const float* const row = c + (r < rows ? r : 0) * c_row;  // wanted when the products are done
        __builtin_prefetch(row, 1), __builtin_prefetch(row + kLanes, 1);
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
    }
    for (int64_t k = 0; k < K; ++k, left += kPanelApart, right += kPanelColumns) {
        const __m512 b0 = _mm512_loadu_ps(right), b1 = _mm512_loadu_ps(right + kLanes);
#pragma GCC unroll 14
        for (int64_t r = 0; r < kPanelRows; ++r) {
            const __m512 a = _mm512_set1_ps(left[r]);
            sums[r][0] = _mm512_fmadd_ps(a, b0, sums[r][0]);
            sums[r][1] = _mm512_fmadd_ps(a, b1, sums[r][1]);
        }
    }
    const __m512 low_bias = bias ? _mm512_maskz_loadu_ps(low, bias) : _mm512_setzero_ps();
    const __m512 high_bias = bias ? _mm512_maskz_loadu_ps(high, bias + kLanes) : _mm512_setzero_ps();
    const __mmask16 low_before = fresh ? 0 : low, high_before = fresh ? 0 : high;
#pragma GCC unroll 14
    for (int64_t r = 0; r < kPanelRows; ++r) {
        if (r >= rows) continue;
        float* const to = c + r * c_row;
        const __m512 before_low = _mm512_add_ps(_mm512_maskz_loadu_ps(low_before, to), low_bias);
        const __m512 before_high = _mm512_add_ps(_mm512_maskz_loadu_ps(high_before, to + kLanes), high_bias);
        _mm512_mask_storeu_ps(to, low, _mm512_add_ps(before_low, sums[r][0]));
        _mm512_mask_storeu_ps(to + kLanes, high, _mm512_add_ps(before_high, sums[r][1]));
    }
}

}  // namespace plimsoll::cpu::avx512
