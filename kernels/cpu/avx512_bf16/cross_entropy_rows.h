// Rows of cross-entropy on AVX-512: rows of few columns, or of any number but a multiple of 32, spend their time in the
// ends of compilers' loops, and those in bf16 in rounding.
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

// A row of cross_entropy_accumulate (kernels/cross_entropy.h): max and sum after n more logits. Exponentials are good
// to 2 ulp; sums have a fixed order. NaNs show in the sum. T: float or bf16. Want available().
template <class T>
void add_logits(float* max, float* sum, const T* logits, int64_t n);

// Every logit becomes exp(logit - lse) factor, rounded to nearest (in bf16 subnormals become zero).
template <class T>
void softmax_gradient(T* logits, int64_t n, float lse, float factor);

}  // namespace plimsoll::cpu::avx512_bf16
