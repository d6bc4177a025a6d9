// Compiled for AVX-512, as tiles.cpp is. Of the gates' functions it has instances of its own: for a type that only this
// file knows.
#include "kernels/cpu/avx512_bf16/gate_rows.h"

#include "kernels/cpu/avx512_bf16/activation_lanes.h"
#include "kernels/gate_function.h"

namespace plimsoll::cpu::avx512_bf16 {
namespace {

// 16 elements as a number.
struct Lanes {
    __m512 value;
    explicit Lanes(__m512 v) : value(v) {}
    explicit Lanes(double v) : value(constant(v)) {}
    friend Lanes operator+(Lanes a, Lanes b) { return Lanes(_mm512_add_ps(a.value, b.value)); }
    friend Lanes operator-(Lanes a, Lanes b) { return Lanes(_mm512_sub_ps(a.value, b.value)); }
    friend Lanes operator*(Lanes a, Lanes b) { return Lanes(_mm512_mul_ps(a.value, b.value)); }
};

// To a few roundings in fp32, since what is added to it may cancel it: 2^f by its series, and the reciprocal corrected.
// What bounding hides of a NaN, z itself brings back.
Lanes sigmoid_of(__m512 z) {
    const __m512 whole = _mm512_add_ps(exact_power(bounded(z, kSigmoidLimit), constant(-kLog2E)), constant(1));
    const __m512 first = _mm512_rcp14_ps(whole);
    const __m512 corrected = _mm512_mul_ps(first, _mm512_fnmadd_ps(whole, first, constant(2)));
    return Lanes(_mm512_fmadd_ps(z, _mm512_setzero_ps(), corrected));
}

}  // namespace

template <class Function, class Combination>
void gate_forward(bf16* out, const bf16* y, const bf16* z, int64_t n) {
    const auto half = [](__m512 of_y, __m512 of_z) {
        return Combination::out(Lanes(of_y), Function::value(Lanes(of_z), sigmoid_of(of_z))).value;
    };
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair from = load_pair(y, i, mask), gate = load_pair(z, i, mask);
        store_pair(out, i, mask, {half(from.even, gate.even), half(from.odd, gate.odd)});
    });
}

template <class Function, class Combination>
void gate_backward(bf16* dy, bf16* dz, const bf16* dout, const bf16* y, const bf16* z, int64_t n) {
    struct Gradients {
        __m512 y, z;
    };
    const auto half = [](__m512 of_out, __m512 of_y, __m512 of_z) {
        const Lanes d(of_out), gate(of_z), s = sigmoid_of(of_z);
        return Gradients{Combination::dy(d, Function::value(gate, s)).value,
                         Function::slope(Combination::dg(d, Lanes(of_y)), gate, s).value};
    };
    for_pairs(n, [&](int64_t i, __mmask32 mask) {
        const Pair d = load_pair(dout, i, mask), from = load_pair(y, i, mask), gate = load_pair(z, i, mask);
        const Gradients even = half(d.even, from.even, gate.even), odd = half(d.odd, from.odd, gate.odd);
        store_pair(dz, i, mask, {even.z, odd.z});
        store_pair(dy, i, mask, {even.y, odd.y});
    });
}

PLIMSOLL_INSTANTIATE_GATE_ROWS

}  // namespace plimsoll::cpu::avx512_bf16
