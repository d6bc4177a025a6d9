#include "model/block.h"

#include "kernels/matmul.h"
#include "kernels/qk_norm.h"
#include "kernels/residual.h"
#include "kernels/rope.h"

namespace plimsoll {
namespace {

// (N, a, b) as (N, a * b).
Tensor flat(Tensor t) {
    return t && t.shape.rank() == 3 ? t.reshape({t.shape[0], t.shape[1] * t.shape[2]}) : t;
}

}  // namespace

BlockTensors block_tensors(const ParameterTable& table, int64_t layer, Tensor matrices, Tensor vectors) {
    const auto get = [&](const char* name) {
        const int index = table.find(fmt::format("blocks.{}.{}", layer, name));
        if (index < 0) return Tensor{};
        return table.view(table.entries()[static_cast<size_t>(index)].matrix ? matrices : vectors, index);
    };
    return {.norm1_gain = get("norm1.gain"),
            .norm1_bias = get("norm1.bias"),
            .qkv = get("attn.qkv.weight"),
            .qkv_bias = get("attn.qkv.bias"),
            .q_norm_gain = get("attn.q_norm.gain"),
            .k_norm_gain = get("attn.k_norm.gain"),
            .sink_logit = get("attn.sink_logit"),
            .gate = get("attn.gate.weight"),
            .out = get("attn.out.weight"),
            .out_bias = get("attn.out.bias"),
            .norm2_gain = get("norm2.gain"),
            .norm2_bias = get("norm2.bias"),
            .up = get("mlp.up.weight"),
            .up_bias = get("mlp.up.bias"),
            .down = get("mlp.down.weight"),
            .down_bias = get("mlp.down.bias")};
}

AttentionTensors Block::core_tensors() const {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    const Tensor qk = a_.qk_normed ? a_.qk_normed : a_.qkv;
    return {.out = a_.y,
            .lse = a_.lse,
            .q = qk.slice_columns(0, NH),
            .k = qk.slice_columns(NH, NKV),
            .v = a_.qkv.slice_columns(NH + NKV, NKV),
            .sink_logit = p_.sink_logit,
            .gate = gate_per_head() ? a_.gate : Tensor{}};
}

AttentionTensors Block::core_gradients() const {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    return {.out = s_.dy,
            .lse = {},
            .q = s_.dqkv.slice_columns(0, NH),
            .k = s_.dqkv.slice_columns(NH, NKV),
            .v = s_.dqkv.slice_columns(NH + NKV, NKV),
            .sink_logit = d_.sink_logit,
            .gate = gate_per_head() ? s_.dgate : Tensor{}};
}

void Block::forward_pre(std::span<const int32_t> positions, const Exec& exec) {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    norm1(exec);
    matmul_forward(flat(a_.qkv), a_.norm1, p_.qkv, p_.qkv_bias, exec);
    if (p_.gate) matmul_forward(flat(a_.gate), a_.norm1, p_.gate, {}, exec);
    Tensor qk = a_.qkv.slice_columns(0, NH + NKV);
    if (a_.qk_normed) {
        const AttentionTensors core = core_tensors();
        qk_norm_forward(core.q, a_.q_rstd, qk.slice_columns(0, NH), p_.q_norm_gain, model_.norm_eps, exec);
        qk_norm_forward(core.k, a_.k_rstd, qk.slice_columns(NH, NKV), p_.k_norm_gain, model_.norm_eps, exec);
        qk = a_.qk_normed;
    }
    if (model_.position == "rope") rope_forward(qk, positions, model_.rope_theta, exec);
}

Tensor Block::attended(const Exec& exec) const {
    if (!p_.gate || gate_per_head()) return a_.y;
    gate_forward(s_.gated, a_.y, a_.gate, exec);
    return s_.gated;
}

void Block::forward_hidden(const Exec& exec) {
    if (!a_.x_mid) return;
    matmul_forward(s_.branch, flat(attended(exec)), p_.out, p_.out_bias, exec);
    residual_norm_forward(a_.x_mid, a_.norm2, a_.mean2, a_.rstd2, a_.x, s_.branch, p_.norm2_gain, p_.norm2_bias,
                          model_.norm_spec(), exec);
    matmul_activation_forward(a_.act, a_.up, a_.norm2, p_.up, p_.up_bias, model_.activation_kind(), exec);
}

void Block::forward_post(Tensor x_out, const Exec& exec) {
    if (!a_.x_mid) {
        matmul_forward(s_.branch, flat(attended(exec)), p_.out, p_.out_bias, exec);
        return residual_forward(x_out, a_.x, s_.branch, exec);
    }
    forward_hidden(exec);
    matmul_forward(s_.branch, a_.act, p_.down, p_.down_bias, exec);
    residual_forward(x_out, a_.x_mid, s_.branch, exec);
}

void Block::norm1(const Exec& exec) {
    norm_forward(a_.norm1, a_.mean1, a_.rstd1, a_.x, p_.norm1_gain, p_.norm1_bias, model_.norm_spec(), exec);
}

void Block::restore_hidden(const Exec& exec) {
    if (!a_.x_mid) return;
    norm_forward(a_.norm2, a_.mean2, a_.rstd2, a_.x_mid, p_.norm2_gain, p_.norm2_bias, model_.norm_spec(), exec);
    activation_forward(a_.act, a_.up, model_.activation_kind(), exec);
}

Tensor Block::as_operand(Tensor kept, Tensor dx, BackwardPart part, const Exec& exec) const {
    if (part == BackwardPart::kWeights) return kept;
    if (!kept && dx.dtype == s_.branch.dtype) return dx;
    const Tensor operand = kept ? kept : s_.branch;
    convert(operand, dx, exec);
    return operand;
}

void Block::backward_post(Tensor dx, Write write, BackwardPart part, const Exec& exec) {
    const bool inputs = part != BackwardPart::kWeights, weights = part != BackwardPart::kInputs;
    if (a_.x_mid) {
        const Tensor dbranch = as_operand(s_.ddown, dx, part, exec);
        const Activation kind = model_.activation_kind();
        const Tensor dup = inputs_per_output(kind) == 1 ? s_.dact : a_.up;
        if (weights) matmul_backward_weight(d_.down, d_.down_bias, dbranch, a_.act, write, exec);
        if (inputs) matmul_activation_backward(dup, s_.dact, dbranch, p_.down, a_.up, kind, exec);
        if (weights) matmul_backward_weight(d_.up, d_.up_bias, dup, a_.norm2, write, exec);
        if (inputs) {
            matmul_backward_input(s_.dnorm, dup, p_.up, Write::kOverwrite, exec);
            norm_backward(dx, d_.norm2_gain, d_.norm2_bias, s_.dnorm, a_.x_mid, p_.norm2_gain, a_.mean2, a_.rstd2,
                          model_.norm_spec(), write, exec);
        }
    }
    const Tensor dbranch = as_operand(s_.dout, dx, part, exec);
    if (weights) matmul_backward_weight(d_.out, d_.out_bias, dbranch, flat(attended(exec)), write, exec);
    if (!inputs) return;
    matmul_backward_input(flat(s_.dy), dbranch, p_.out, Write::kOverwrite, exec);
    if (p_.gate && !gate_per_head()) gate_backward(s_.dy, s_.dgate, s_.dy, a_.y, a_.gate, exec);
}

void Block::backward_pre(Tensor dx, std::span<const int32_t> positions, Write write, BackwardPart part,
                         const Exec& exec) {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    const Tensor dqk = s_.dqkv.slice_columns(0, NH + NKV);
    if (part != BackwardPart::kWeights) {
        if (model_.position == "rope") rope_backward(dqk, positions, model_.rope_theta, exec);
        if (a_.qk_normed) {
            const Tensor dq = dqk.slice_columns(0, NH), dk = dqk.slice_columns(NH, NKV);
            qk_norm_backward(dq, d_.q_norm_gain, dq, a_.qkv.slice_columns(0, NH), p_.q_norm_gain, a_.q_rstd, write,
                             exec);
            qk_norm_backward(dk, d_.k_norm_gain, dk, a_.qkv.slice_columns(NH, NKV), p_.k_norm_gain, a_.k_rstd, write,
                             exec);
        }
    }
    if (part != BackwardPart::kInputs) {
        matmul_backward_weight(d_.qkv, d_.qkv_bias, flat(s_.dqkv), a_.norm1, write, exec);
        if (p_.gate) matmul_backward_weight(d_.gate, {}, flat(s_.dgate), a_.norm1, write, exec);
    }
    if (part == BackwardPart::kWeights) return;
    matmul_backward_input(s_.dnorm, flat(s_.dqkv), p_.qkv, Write::kOverwrite, exec);
    if (p_.gate) matmul_backward_input(s_.dnorm, flat(s_.dgate), p_.gate, Write::kAccumulate, exec);
    norm_backward(dx, d_.norm1_gain, d_.norm1_bias, s_.dnorm, a_.x, p_.norm1_gain, a_.mean1, a_.rstd1,
                  model_.norm_spec(), write, exec);
}

}  // namespace plimsoll
