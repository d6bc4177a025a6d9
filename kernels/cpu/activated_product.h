// Products in bf16 of our own with an activation behind them. One with an input per output follows element by element;
// SwiGLU, which wants two columns, follows the whole product.
#pragma once

#include "kernels/cpu/avx512_bf16/gemm.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {

// product(up, then) makes up, and act = f(up) behind it, or in its place.
template <class Product>
void activated_forward(Tensor act, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    using avx512_bf16::Following;
    if (inputs_per_output(kind) > 1) {
        product(matrix(up), avx512_bf16::Then{});
        return cpu::activation_forward(act, up, kind, exec);
    }
    const Following relu = act.data == up.data ? Following::kReluInPlace : Following::kRelu;
    product(matrix(up), avx512_bf16::Then{kind == Activation::kRelu ? relu : Following::kGelu, matrix(act)});
}

// product(to, then) makes dact, if only as dup = dact f'(up).
template <class Product>
void activated_backward(Tensor dup, Tensor dact, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    if (inputs_per_output(kind) > 1) {
        product(matrix(dact), avx512_bf16::Then{});
        return cpu::activation_backward(dup, dact, up, kind, exec);
    }
    product(matrix(dup), avx512_bf16::Then{kind == Activation::kRelu ? avx512_bf16::Following::kReluGradient
                                                                     : avx512_bf16::Following::kGeluGradient,
                                           matrix(up)});
}

}  // namespace plimsoll::cpu
