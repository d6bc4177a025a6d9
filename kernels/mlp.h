// Activation functions of the feed-forward layer.
#pragma once

#include <string_view>

#include "kernels/exec.h"

namespace plimsoll {

enum class Activation : uint8_t {
    kRelu,    // max(x, 0)
    kGelu,    // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))                  Hendrycks and Gimpel, arXiv:1606.08415
    kSwiglu,  // gate * sigmoid(gate) * up, x = [gate | up]                       Shazeer, arXiv:2002.05202
};

// How many inputs one output has.
constexpr int64_t inputs_per_output(Activation kind) {
    return kind == Activation::kSwiglu ? 2 : 1;
}

// Whether f'(x) follows from f(x), so that nobody need keep x.
constexpr bool slope_follows_from_output(Activation kind) {
    return kind == Activation::kRelu;
}

// out (N, F) = f(x), x (N, F), for kSwiglu x (N, 2F) whose first F columns are the gate. One floating dtype; arithmetic
// in the dtype sums are kept in (tanh and exp to a few ulp of it). out may be x's memory if they have one shape.
void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec);

// dx (like x) = dout f'(x). dx may be x's own memory, or dout's if they have one shape. x may be what
// activation_forward has made of it where slope_follows_from_output().
void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec);

}  // namespace plimsoll
