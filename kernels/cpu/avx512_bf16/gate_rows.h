// Gates with an element of z for every element of y, in bf16 on AVX-512. Called only where available() says yes
// (tiles.h).
#pragma once

#include <cstdint>

namespace plimsoll {
struct bf16;
struct SigmoidGate;
struct HalfSigmoidGate;
struct SiluGate;
struct IdentityGate;
struct MultiplyGate;
struct AddGate;
}  // namespace plimsoll

namespace plimsoll::cpu::avx512_bf16 {

// As gate_forward and gate_backward of n elements (kernels/gate.h), with a function and a combination of
// kernels/gate_function.h: fp32, results rounded to nearest; an element's bits depend on its operands alone. dy may be
// dout.
template <class Function, class Combination>
void gate_forward(bf16* out, const bf16* y, const bf16* z, int64_t n);
template <class Function, class Combination>
void gate_backward(bf16* dy, bf16* dz, const bf16* dout, const bf16* y, const bf16* z, int64_t n);

// What files that define them instantiate.
#define PLIMSOLL_INSTANTIATE_GATE(Function, Combination)                                         \
    template void gate_forward<Function, Combination>(bf16*, const bf16*, const bf16*, int64_t); \
    template void gate_backward<Function, Combination>(bf16*, bf16*, const bf16*, const bf16*, const bf16*, int64_t);
#define PLIMSOLL_INSTANTIATE_GATE_ROWS                       \
    PLIMSOLL_INSTANTIATE_GATE(SigmoidGate, MultiplyGate)     \
    PLIMSOLL_INSTANTIATE_GATE(SigmoidGate, AddGate)          \
    PLIMSOLL_INSTANTIATE_GATE(HalfSigmoidGate, MultiplyGate) \
    PLIMSOLL_INSTANTIATE_GATE(HalfSigmoidGate, AddGate)      \
    PLIMSOLL_INSTANTIATE_GATE(SiluGate, MultiplyGate)        \
    PLIMSOLL_INSTANTIATE_GATE(SiluGate, AddGate)             \
    PLIMSOLL_INSTANTIATE_GATE(IdentityGate, MultiplyGate)    \
    PLIMSOLL_INSTANTIATE_GATE(IdentityGate, AddGate)

}  // namespace plimsoll::cpu::avx512_bf16
