// Products by AMX in bf16 with an activation behind them. One with an input per output follows part by part, while they
// are in cache; SwiGLU, which wants two columns, follows the whole product.
#pragma once

#include "kernels/cpu/amx/gemm.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {

inline Tensor part(Tensor t, amx::Part p) {
    return t.slice_rows(p.row, p.rows).slice_columns(p.column, p.columns);
}

// product(epilogue) makes `up`, then act = f(up).
template <class Product>
void activated_forward(Tensor act, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    if (inputs_per_output(kind) > 1) {
        product(amx::Epilogue());
        return cpu::activation_forward(act, up, kind, exec);
    }
    const auto then = [&](amx::Part p) { cpu::activation_forward(part(act, p), part(up, p), kind, {}); };
    product(amx::Epilogue(then));
}

// product(epilogue) makes `dact`, then dup = dact f'(up).
template <class Product>
void activated_backward(Tensor dup, Tensor dact, Tensor up, Activation kind, const Exec& exec, Product&& product) {
    if (inputs_per_output(kind) > 1) {
        product(amx::Epilogue());
        return cpu::activation_backward(dup, dact, up, kind, exec);
    }
    const auto then = [&](amx::Part p) {
        cpu::activation_backward(part(dup, p), part(dact, p), part(up, p), kind, {});
    };
    product(amx::Epilogue(then, up));
}

}  // namespace plimsoll::cpu
