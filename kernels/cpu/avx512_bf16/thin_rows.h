// Products that are thin, in bf16 on AVX-512: tiles would hold padding, and packing takes longer than they do. Called
// only where available() says yes (tiles.h).
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

inline constexpr int64_t kThin = 8;         // the most of K, or of rows of c
inline constexpr int64_t kThinColumns = 4;  // and of columns
inline constexpr int64_t kThinPart = 32;    // columns; what is kept in fp32 is padded to them

// `columns` elements widened, of every kThinPart the even ones first; zeros behind the last.
void widen_pairs(float* to, const bf16* from, int64_t columns);
// The way back, without rounding: to = sums, or += them.
void write_pairs(float* to, const float* sums, int64_t columns, bool accumulate);

// c (rows, columns) = a (rows, K) b, or += it, K <= kThin ascending. Rows are *_row elements apart; b's of K, from
// widen_pairs, padded. C: bf16, rounded once, or float.
template <class C>
void thin_depth(C* c, int64_t c_row, const bf16* a, int64_t a_row, const float* b, int64_t rows, int64_t columns,
                int64_t K, bool accumulate);

// sums (kThin, padded columns) += a^T b: a (K, kThin) in fp32, b (K, columns) with rows b_row apart, K ascending. Only
// the first `rows` of the sums are wanted.
void thin_rows(float* sums, const float* a, const bf16* b, int64_t b_row, int64_t rows, int64_t columns, int64_t K);

// c (rows, columns) = a (rows, K) b + bias, or += it, columns <= kThinColumns; bias may be null. b's columns are
// contiguous, b_column elements apart. C: bf16, rounded once, or float.
template <class C>
void thin_columns(C* c, int64_t c_row, const bf16* a, int64_t a_row, const bf16* b, int64_t b_column, const float* bias,
                  int64_t rows, int64_t columns, int64_t K, bool accumulate);

// What files that define them instantiate.
#define PLIMSOLL_INSTANTIATE_THIN(C)                                                                            \
    template void thin_depth(C*, int64_t, const bf16*, int64_t, const float*, int64_t, int64_t, int64_t, bool); \
    template void thin_columns(C*, int64_t, const bf16*, int64_t, const bf16*, int64_t, const float*, int64_t,  \
                               int64_t, int64_t, bool);

}  // namespace plimsoll::cpu::avx512_bf16
