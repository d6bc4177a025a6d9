// Activation functions in bf16 on AVX-512: half of the time of loops that compilers vectorise goes into conversions and
// digits that bf16 does not have.
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
}

namespace plimsoll::cpu::avx512_bf16 {

// As activation_forward and activation_backward of n elements (kernels/mlp.h). Sigmoids are good to 2^-13, results
// rounded to nearest; an element's bits depend on its operands alone. dx may be x or dout. Want available().
void gelu_forward(bf16* out, const bf16* x, int64_t n);
void gelu_backward(bf16* dx, const bf16* dout, const bf16* x, int64_t n);
void swiglu_forward(bf16* out, const bf16* gates, const bf16* ups, int64_t n);
void swiglu_backward(bf16* dgates, bf16* dups, const bf16* dout, const bf16* gates, const bf16* ups, int64_t n);

// As elu1_forward of n elements (kernels/feature_map.h). out may be x.
void elu1_forward(bf16* out, const bf16* x, int64_t n);

}  // namespace plimsoll::cpu::avx512_bf16
