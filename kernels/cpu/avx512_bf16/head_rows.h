// Rows of heads in bf16, on AVX-512. Called only where available() says yes (tiles.h).
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

// to (n) = factor from, rounded to nearest.
void scale(bf16* to, const bf16* from, float factor, int64_t n);
// The same, and returns from . other, in fp32 in a fixed order.
float scale_and_dot(bf16* to, const bf16* from, const bf16* other, float factor, int64_t n);

}  // namespace plimsoll::cpu::avx512_bf16
