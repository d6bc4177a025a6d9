// The three matrix products of a linear layer.
#pragma once

#include <string>

#include "kernels/exec.h"
#include "kernels/mlp.h"

namespace plimsoll {

// Operands are fp32, bf16 or fp64; sums are kept in fp32 (fp64 for fp64). Activations may have a row stride (a slice of
// columns); weights and their gradients are contiguous. A result may have the operands' dtype or, for bf16 operands,
// fp32. Results do not depend on the number of threads, except through OpenBLAS. With AVX512_BF16, bf16 products are
// our own (kernels/cpu/avx512_bf16), with AVX-512 those in fp32 (kernels/cpu/avx512); the library for the others is
// chosen when plimsoll is configured: see matmul_backend().

// out (N, O) = x (N, I) weight (O, I)^T + bias (O).  bias may be absent; it has the dtype sums are kept in.
// Throws Error if shapes or dtypes disagree.
void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec);

// up = x weight^T + bias as above, act = f(up): a product and what follows it, as one op where the library has it
// (cuBLASLt: GELU in bf16). act (N, F), up (N, F) or (N, 2F) for kSwiglu. up may be act's memory where
// slope_follows_from_output().
void matmul_activation_forward(Tensor act, Tensor up, Tensor x, Tensor weight, Tensor bias, Activation kind,
                               const Exec& exec);

// The way back, from the product behind the activation: dact = dout weight, dup = dact f'(up). weight (O, F) is that of
// the next layer, dout (N, O) its output's gradient. dact is memory: where what follows takes elements from registers,
// it gets nothing. dup may be up's memory, or, if it has the same shape, dact's; up may be what forward had as act
// where slope_follows_from_output().
void matmul_activation_backward(Tensor dup, Tensor dact, Tensor dout, Tensor weight, Tensor up, Activation kind,
                                const Exec& exec);

// dx (N, I) = dout (N, O) weight (O, I), written or added.
void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec);

// dweight (O, I) = dout (N, O)^T x (N, I), in the dtype sums are kept in, written or added.
// dbias (O) = sum over rows of dout, likewise, if not absent: summed in kBiasSlots fixed ranges of rows, or, where
// bf16 products are our own, in ranges of 32. squares, if not absent, gets the sums of squares of what dweight is then:
// block_squares (kernels/global_norm.h), summed in another order there. On the CPU only.
void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec,
                            Tensor squares = {});

// The number of row ranges of dbias's sum: part of the numerics, so a constant.
inline constexpr int64_t kBiasSlots = 64;

// What is behind fp32 and bf16 products: "oneDNN 2.6.3", "OpenBLAS" or "plain loops", with ", AVX-512" where fp32 is
// ours, and ", AMX" or ", AVX512_BF16" where bf16 is: what multiplies.
std::string matmul_backend();
// Whether bf16 operands are computed with as such and faster than fp32: on a CPU with AMX, or one of AMD's with
// AVX512_BF16. Elsewhere bf16 operands are converted and multiplied in fp32: correct, and slower.
bool matmul_bf16_is_fast();

}  // namespace plimsoll
