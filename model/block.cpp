#include "model/block.h"

#include "kernels/matmul.h"
#include "kernels/qk_norm.h"
#include "kernels/residual.h"
#include "kernels/rope.h"

namespace plimsoll {

BlockTensors block_tensors(const ParameterTable& table, const LayerParts& parts, int64_t layer, Tensor matrices,
                           Tensor vectors) {
    const auto get = [&](std::string_view name) {
        const int index = table.find(fmt::format("blocks.{}.{}", layer, name));
        if (index < 0) return Tensor{};
        return table.view(table.entries()[static_cast<size_t>(index)].matrix ? matrices : vectors, index);
    };
    PartTensors of_parts;
    size_t next = 0;
    for (const ParameterSpec& p : parts.parameters()) of_parts[next++] = get(p.name);
    return {.norm1_gain = get("norm1.gain"),
            .norm1_bias = get("norm1.bias"),
            .qkv = get("attn.qkv.weight"),
            .qkv_bias = get("attn.qkv.bias"),
            .q_norm_gain = get("attn.q_norm.gain"),
            .k_norm_gain = get("attn.k_norm.gain"),
            .sink_logit = get("attn.sink_logit"),
            .score_bias = get("attn.score_bias"),
            .out = get("attn.out.weight"),
            .out_bias = get("attn.out.bias"),
            .norm2_gain = get("norm2.gain"),
            .norm2_bias = get("norm2.bias"),
            .up = get("mlp.up.weight"),
            .up_bias = get("mlp.up.bias"),
            .down = get("mlp.down.weight"),
            .down_bias = get("mlp.down.bias"),
            .parts = of_parts,
            .qkv_squares = {},
            .out_squares = {},
            .up_squares = {},
            .down_squares = {}};
}

Tensor Block::unrotated(size_t parts) const {
    Tensor qk = a_.qk_normed ? a_.qk_normed : a_.qkv.slice_columns(0, model_.heads + model_.key_heads());
    for (size_t i = 0; i < parts; ++i) qk = parts_[i].unrotated(part(i), qk);
    return qk;
}

AttentionTensors Block::operands(size_t parts) const {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    const Tensor qk = unrotated(parts_.size());  // rotated meanwhile
    AttentionTensors t{.out = a_.y,
                       .lse = a_.lse,
                       .q = qk.slice_columns(0, NH),
                       .k = qk.slice_columns(NH, NKV),
                       .v = a_.qkv.slice_columns(NH + NKV, NKV),
                       .sink_logit = p_.sink_logit,
                       .gate = {},
                       .score_bias = p_.score_bias};
    for (size_t i = 0; i < parts; ++i) parts_[i].bind(part(i), t);
    return t;
}

AttentionTensors Block::core_tensors() const {
    return operands(parts_.size());
}

AttentionTensors Block::core_gradients() const {
    return gradients(parts_.size());
}

AttentionTensors Block::gradients(size_t parts) const {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    AttentionTensors d{.out = s_.dy,
                       .lse = {},
                       .q = s_.dqkv.slice_columns(0, NH),
                       .k = s_.dqkv.slice_columns(NH, NKV),
                       .v = s_.dqkv.slice_columns(NH + NKV, NKV),
                       .sink_logit = d_.sink_logit,
                       .gate = {},
                       .score_bias = d_.score_bias};
    for (size_t i = 0; i < parts; ++i) parts_[i].bind_gradients(part(i), d);
    return d;
}

OutputGate Block::output_gate() const {
    for (size_t i = 0; i < parts_.size(); ++i)
        if (const OutputGate gate = parts_[i].output_gate(part(i))) return gate;
    return {};
}

Tensor Block::column_scores() const {
    for (size_t i = 0; i < parts_.size(); ++i)
        if (const Tensor e = parts_[i].column_scores(part(i))) return e;
    return {};
}

void Block::forward_pre(std::span<const int32_t> positions, const Exec& exec, RopeTiming rope) {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    norm1(exec);
    map_.forward(a_.qkv, a_.norm1, a_.qk_source, p_.qkv, p_.qkv_bias, exec);
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].forward_maps(part(i, positions), a_.norm1, exec);
    if (const Tensor normed = a_.qk_normed) {
        qk_norm_forward(normed.slice_columns(0, NH), a_.q_rstd, a_.qkv.slice_columns(0, NH), p_.q_norm_gain,
                        model_.norm_eps, exec);
        qk_norm_forward(normed.slice_columns(NH, NKV), a_.k_rstd, a_.qkv.slice_columns(NH, NKV), p_.k_norm_gain,
                        model_.norm_eps, exec);
    }
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].forward_unrotated(part(i), unrotated(i), exec);
    if (model_.position == "rope" && rope == RopeTiming::kNow)
        rope_forward(unrotated(parts_.size()), positions, model_.rope_theta, exec);
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].forward_operands(part(i, positions), operands(i), exec);
}

Tensor Block::attended(size_t end, const Exec& exec) const {
    Tensor y = core_tensors().out;
    for (size_t i = 0; i < end; ++i) y = parts_[i].attended(part(i), y, exec);
    return y;
}

void Block::forward_outputs(const Exec& exec) const {
    for (size_t i = 0; i < parts_.size(); ++i) parts_[i].forward_output(part(i), core_tensors(), exec);
}

Tensor Block::attention_branch(const Exec& exec) const {
    Tensor y = core_tensors().out;
    for (size_t i = 0; i < parts_.size(); ++i) y = parts_[i].forward_attended(part(i), y, exec);
    matmul_forward(s_.branch, flat(y), p_.out, p_.out_bias, exec);
    Tensor branch = s_.branch;
    for (size_t i = 0; i < parts_.size(); ++i) branch = parts_[i].forward_branch(part(i), branch, exec);
    return branch;
}

void Block::forward_hidden(const Exec& exec) {
    forward_outputs(exec);
    if (!a_.x_mid && !parts_.keep_branch()) return;
    const Tensor branch = attention_branch(exec);
    if (!a_.x_mid) return;
    residual_norm_forward(a_.x_mid, a_.norm2, a_.mean2, a_.rstd2, a_.x, branch, p_.norm2_gain, p_.norm2_bias,
                          model_.norm_spec(), exec);
    matmul_activation_forward(a_.act, a_.up, a_.norm2, p_.up, p_.up_bias, model_.activation_kind(), exec);
}

void Block::forward_post(Tensor x_out, const Exec& exec) {
    if (!a_.x_mid) {
        forward_outputs(exec);
        return residual_forward(x_out, a_.x, attention_branch(exec), exec);
    }
    forward_outputs(exec);
    feed_forward_forward(feed_forward(attention_branch(exec), x_out), model_.activation_kind(), model_.norm_spec(),
                         exec);
}

FeedForwardTensors Block::feed_forward(Tensor branch, Tensor x_out) const {
    return {.x = a_.x,
            .branch = branch,
            .sum = a_.x_mid,
            .normed = a_.norm2,
            .mean = a_.mean2,
            .rstd = a_.rstd2,
            .gain = p_.norm2_gain,
            .gain_bias = p_.norm2_bias,
            .up = a_.up,
            .up_weight = p_.up,
            .up_bias = p_.up_bias,
            .act = a_.act,
            .down_weight = p_.down,
            .down_bias = p_.down_bias,
            .product = s_.branch,
            .out = x_out};
}

void Block::norm1(const Exec& exec) {
    norm_forward(a_.norm1, a_.mean1, a_.rstd1, a_.x, p_.norm1_gain, p_.norm1_bias, model_.norm_spec(), exec);
}

void Block::restore_hidden(const Exec& exec) {
    if (!a_.x_mid) return;
    norm_forward(a_.norm2, a_.mean2, a_.rstd2, a_.x_mid, p_.norm2_gain, p_.norm2_bias, model_.norm_spec(), exec);
    if (a_.act.data != a_.up.data) activation_forward(a_.act, a_.up, model_.activation_kind(), exec);
}

Tensor Block::operand(Tensor kept) const {
    return kept || s_.branch.dtype == a_.x.dtype ? kept : s_.branch;
}

Tensor Block::branch_gradient() const {
    return operand(a_.x_mid ? s_.ddown : s_.dout);
}

void Block::backward_post(Tensor dx, Write write, BackwardPart part, const Exec& exec, BranchGradient branch) {
    const bool inputs = of_inputs(part), weights = of_weights(part);
    const Tensor first = branch_gradient(), second = operand(s_.dout);
    if (first && inputs && branch == BranchGradient::kToMake) convert(first, dx, exec);
    if (a_.x_mid) {
        const Tensor dbranch = first ? first : dx;
        const Activation kind = model_.activation_kind();
        // In place there is less memory to go through; a GPU's product reads `up` beside what it writes. Gradients of
        // weights that come later read `act`.
        const bool read_later = part != BackwardPart::kAll && a_.up.data == a_.act.data;
        const bool in_place = inputs_per_output(kind) > 1 || (a_.up.device == Device::kCpu && !read_later);
        const Tensor dup = in_place ? a_.up : s_.dact;
        if (weights) matmul_backward_weight(d_.down, d_.down_bias, dbranch, a_.act, write, exec, d_.down_squares);
        if (inputs)
            feed_forward_backward({.dx = dx,
                                   .dout = dbranch,
                                   .dact = s_.dact,
                                   .dup = dup,
                                   .dnormed = s_.dnorm,
                                   .dbranch = second,
                                   .dgain = d_.norm2_gain,
                                   .dbias = d_.norm2_bias},
                                  feed_forward({}, {}), kind, model_.norm_spec(), write, exec);
        if (weights) matmul_backward_weight(d_.up, d_.up_bias, dup, a_.norm2, write, exec, d_.up_squares);
    }
    Tensor dbranch = second ? second : dx;
    for (size_t i = parts_.size(); i-- > 0;)
        dbranch = parts_[i].backward_branch(this->part(i), dbranch, write, part, exec);
    if (weights)
        matmul_backward_weight(d_.out, d_.out_bias, dbranch, flat(attended(parts_.size(), exec)), write, exec,
                               d_.out_squares);
    if (!inputs) return;
    const Shape read{s_.dy.rows(), parts_.output_heads(model_.heads), model_.head_channels()};
    const Tensor dy(s_.dy.data, s_.dy.dtype, read, s_.dy.device);
    matmul_backward_input(flat(dy), dbranch, p_.out, Write::kOverwrite, exec);
    for (size_t i = parts_.size(); i-- > 0;)
        parts_[i].backward_attended(this->part(i), dy, parts_[i].reads_attended() ? attended(i, exec) : Tensor{}, write,
                                    exec);
    for (size_t i = parts_.size(); i-- > 0;)
        parts_[i].backward_output(this->part(i), core_gradients(), core_tensors(), write, exec);
}

void Block::backward_pre(Tensor dx, std::span<const int32_t> positions, Write write, BackwardPart part,
                         const Exec& exec, Tensor dbranch) {
    const int64_t NH = model_.heads, NKV = model_.key_heads();
    const Tensor dqk = s_.dqkv.slice_columns(0, NH + NKV);
    if (of_inputs(part)) {
        for (size_t i = parts_.size(); i-- > 0;)
            parts_[i].backward_operands(this->part(i, positions), gradients(i), operands(i), write, exec);
        if (model_.position == "rope") rope_backward(dqk, positions, model_.rope_theta, exec);
        for (size_t i = parts_.size(); i-- > 0;)
            parts_[i].backward_unrotated(this->part(i), dqk, unrotated(i), write, exec);
        if (a_.qk_normed) {
            const Tensor dq = dqk.slice_columns(0, NH), dk = dqk.slice_columns(NH, NKV);
            qk_norm_backward(dq, d_.q_norm_gain, dq, a_.qkv.slice_columns(0, NH), p_.q_norm_gain, a_.q_rstd, write,
                             exec);
            qk_norm_backward(dk, d_.k_norm_gain, dk, a_.qkv.slice_columns(NH, NKV), p_.k_norm_gain, a_.k_rstd, write,
                             exec);
        }
    }
    if (of_weights(part))
        map_.backward_weight(d_.qkv, d_.qkv_bias, d_.qkv_squares, s_.dqkv, a_.norm1, a_.qk_source, write, exec);
    if (of_inputs(part))
        map_.backward_input(s_.dnorm, s_.dembedding, static_cast<bool>(a_.qk_source), s_.dqkv, p_.qkv, exec);
    for (size_t i = 0; i < parts_.size(); ++i)
        parts_[i].backward_maps(this->part(i, positions), s_.dnorm, a_.norm1, write, part, exec);
    if (!of_inputs(part)) return;
    stream_norm_backward(dx, dbranch, d_.norm1_gain, d_.norm1_bias, s_.dnorm, a_.x, p_.norm1_gain, a_.mean1, a_.rstd1,
                         model_.norm_spec(), Write::kAccumulate, write, exec);
}

}  // namespace plimsoll
