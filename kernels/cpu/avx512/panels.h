// Panels of fp32 matrices and their products, on AVX-512. Called only where available() says yes.
#pragma once

#include <cstdint>

namespace plimsoll::cpu::avx512 {

// Whether this processor has AVX-512 and the variable PLIMSOLL_AVX512 is not 0.
bool available();

inline constexpr int64_t kPanelRows = 14, kPanelColumns = 32;  // of c: 28 vectors of sums
inline constexpr int64_t kPanelApart = 16;                     // floats from one k to the next of a left panel

// A panel: what a product reads at a k, k after k. Left: kPanelRows rows of a, kPanelApart floats; right: kPanelColumns
// columns of b. Here `count` rows or columns are packed over K, into as many panels as they fill, `panel` floats apart;
// zeros past the last. Element (i, k) of `from` is at i * across + k * along, one of the strides is 1.
void pack_left(float* to, int64_t panel, const float* from, int64_t across, int64_t along, int64_t count, int64_t K);
void pack_right(float* to, int64_t panel, const float* from, int64_t across, int64_t along, int64_t count, int64_t K);

// c (rows, columns) += bias (columns; may be null) + the product of two panels, one chain of fused additions per
// element in ascending k. For `fresh`, c is not read: it is taken as 0.
void multiply(float* c, int64_t c_row, const float* left, const float* right, int64_t K, int64_t rows, int64_t columns,
              bool fresh, const float* bias);

}  // namespace plimsoll::cpu::avx512
