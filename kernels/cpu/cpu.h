// The CPU implementations that kernels/dispatch*.cpp choose from. Each follows the contract of the op's own header.
#pragma once

#include "kernels/attention.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/global_norm.h"
#include "kernels/matmul.h"
#include "kernels/mlp.h"
#include "kernels/norm.h"
#include "kernels/optimizer.h"
#include "kernels/qk_norm.h"
#include "kernels/residual.h"
#include "kernels/rope.h"

namespace plimsoll::cpu {

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec);
void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec spec, Write write, const Exec& exec);

void matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& exec);
void matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& exec);
void matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write, const Exec& exec);

void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec);
void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec);

void rope_forward(Tensor x, std::span<const int32_t> positions, double theta, const Exec& exec);
void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec);

void qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, const Exec& exec);
void qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                      const Exec& exec);

void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec);
void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec);

void residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& exec);
void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec);
void convert(Tensor out, Tensor x, const Exec& exec);
void fill_zero(Tensor out, const Exec& exec);

void cross_entropy_begin(const CrossEntropyState& state, const Exec& exec);
void cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0,
                              std::span<const int32_t> targets, const Exec& exec);
void cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, std::span<const int32_t> targets,
                          const Exec& exec);
CrossEntropySums cross_entropy_sums(Tensor nll, Tensor lse, std::span<const int32_t> targets, const Exec& exec);
void cross_entropy_gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale,
                            double z_loss, const Exec& exec);

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const AdamWSpec& spec, const Exec& exec);
void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec);
double sum_of_squares(Tensor x, const Exec& exec);

void attention_forward(Tensor out, Tensor lse, Tensor q, Tensor k, Tensor v, Tensor sink_logit,
                       std::span<const int32_t> cu_seqlens, const AttentionSpec& spec, const Exec& exec);
void attention_backward(Tensor dq, Tensor dk, Tensor dv, Tensor dsink_logit, Tensor dout, Tensor out, Tensor lse,
                        Tensor q, Tensor k, Tensor v, Tensor sink_logit, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec);
void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec);
void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec);

}  // namespace plimsoll::cpu
