// Products by AMX in bf16 with an activation behind them. One with an input per output follows element by element;
// SwiGLU, which wants two columns, follows the whole product.
#pragma once

#include "kernels/cpu/amx/gemm.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {

// product(up, then) makes up, and act = f(up) behind it.
template <class Product>
void activated_forward(Tensor act, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    if (inputs_per_output(kind) > 1) {
        product(matrix(up), amx::Then{});
        return cpu::activation_forward(act, up, kind, exec);
    }
    product(matrix(up),
            amx::Then{kind == Activation::kRelu ? amx::Following::kRelu : amx::Following::kGelu, matrix(act)});
}

// product(to, then) makes dact, if only as dup = dact f'(up).
template <class Product>
void activated_backward(Tensor dup, Tensor dact, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    if (inputs_per_output(kind) > 1) {
        product(matrix(dact), amx::Then{});
        return cpu::activation_backward(dup, dact, up, kind, exec);
    }
    product(matrix(dup),
            amx::Then{kind == Activation::kRelu ? amx::Following::kReluGradient : amx::Following::kGeluGradient,
                      matrix(up)});
}

}  // namespace plimsoll::cpu
