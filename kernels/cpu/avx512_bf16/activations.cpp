// Compiled for AVX-512, as tiles.cpp is.
#include "kernels/cpu/avx512_bf16/activations.h"

#include "kernels/cpu/avx512_bf16/activation_lanes.h"

namespace plimsoll::cpu::avx512_bf16 {

void gelu_forward(bf16* out, const bf16* x, int64_t n) {
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair v = load_pair(x, i, mask);
        store_pair(out, i, mask, {gelu(v.even), gelu(v.odd)});
    });
}

void gelu_backward(bf16* dx, const bf16* dout, const bf16* x, int64_t n) {
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair v = load_pair(x, i, mask), d = load_pair(dout, i, mask);
        store_pair(dx, i, mask, {gelu_gradient(d.even, v.even), gelu_gradient(d.odd, v.odd)});
    });
}

void swiglu_forward(bf16* out, const bf16* gates, const bf16* ups, int64_t n) {
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair gate = load_pair(gates, i, mask), up = load_pair(ups, i, mask);
        store_pair(out, i, mask, {swiglu(gate.even, up.even), swiglu(gate.odd, up.odd)});
    });
}

void swiglu_backward(bf16* dgates, bf16* dups, const bf16* dout, const bf16* gates, const bf16* ups, int64_t n) {
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair gate = load_pair(gates, i, mask), up = load_pair(ups, i, mask), d = load_pair(dout, i, mask);
        const SwigluGradient even = swiglu_gradient(d.even, gate.even, up.even);
        const SwigluGradient odd = swiglu_gradient(d.odd, gate.odd, up.odd);
        store_pair(dgates, i, mask, {even.gate, odd.gate});
        store_pair(dups, i, mask, {even.up, odd.up});
    });
}

void elu1_forward(bf16* out, const bf16* x, int64_t n) {
    const auto half = [](__m512 v) {
        const __mmask16 rises = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_GT_OQ);
        return _mm512_mask_add_ps(falling_exponential(v), rises, v, constant(1));
    };
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair v = load_pair(x, i, mask);
        store_pair(out, i, mask, {half(v.even), half(v.odd)});
    });
}

}  // namespace plimsoll::cpu::avx512_bf16
