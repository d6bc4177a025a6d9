#include "model/activations.h"

#include <algorithm>

namespace plimsoll {
namespace {

Shape gate_shape(const NetworkConfig& config, int64_t layer, int64_t N) {
    const ModelConfig& model = config.model;
    if (config.attention.gate_at(layer) == "headwise") return {N, model.heads};
    return {N, model.heads, model.head_channels()};
}

bool has_gate(const NetworkConfig& config, int64_t layer) {
    return config.attention.gate_at(layer) != "none";
}

}  // namespace

Tensor first_rows(Tensor tensor, int64_t n) {
    return tensor ? tensor.slice_rows(0, n) : tensor;
}

Tensor first_columns(Tensor tensor, int64_t n) {
    return tensor ? Tensor(tensor.data, tensor.dtype, {tensor.shape[0], n}, tensor.device) : tensor;
}

BlockActivationPlan::BlockActivationPlan(ArenaPlan& plan, const NetworkConfig& config, int64_t layer, int64_t N,
                                         Precision precision) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden();
    const DType compute = precision.compute, stream = precision.stream();
    const auto add = [&](const char* name, Shape shape, DType dtype) {
        return plan.add(fmt::format("blocks.{}.{}", layer, name), shape, dtype);
    };
    const bool layer_norm = model.norm == "layer";
    x_ = add("x", {N, C}, stream);
    norm1_ = add("norm1", {N, C}, compute);
    if (layer_norm) mean1_ = add("mean1", {N}, stream);
    rstd1_ = add("rstd1", {N}, stream);
    qkv_ = add("qkv", {N, NH + 2 * NKV, HS}, compute);
    if (model.qk_norm) {
        qk_normed_ = add("qk_normed", {N, NH + NKV, HS}, compute);
        q_rstd_ = add("q_rstd", {N, NH}, stream);
        k_rstd_ = add("k_rstd", {N, NKV}, stream);
    }
    if (has_gate(config, layer)) gate_ = add("gate", gate_shape(config, layer, N), compute);
    y_ = add("y", {N, NH, HS}, compute);
    if (is_normalized(config.attention.spec(layer, model).weighting)) lse_ = add("lse", {NH, N}, stream);
    if (F == 0) return;
    x_mid_ = add("x_mid", {N, C}, stream);
    norm2_ = add("norm2", {N, C}, compute);
    if (layer_norm) mean2_ = add("mean2", {N}, stream);
    rstd2_ = add("rstd2", {N}, stream);
    up_ = add("up", {N, inputs_per_output(model.activation_kind()) * F}, compute);
    act_ = add("act", {N, F}, compute);
}

BlockActivations BlockActivationPlan::view(const Arena& arena, int64_t n) const {
    const auto rows = [&](ArenaSlot slot) { return first_rows(arena[slot], n); };
    return {.x = rows(x_),
            .norm1 = rows(norm1_),
            .mean1 = rows(mean1_),
            .rstd1 = rows(rstd1_),
            .qkv = rows(qkv_),
            .qk_normed = rows(qk_normed_),
            .q_rstd = rows(q_rstd_),
            .k_rstd = rows(k_rstd_),
            .gate = rows(gate_),
            .y = rows(y_),
            .lse = first_columns(arena[lse_], n),
            .x_mid = rows(x_mid_),
            .norm2 = rows(norm2_),
            .mean2 = rows(mean2_),
            .rstd2 = rows(rstd2_),
            .up = rows(up_),
            .act = rows(act_)};
}

BlockScratchPlan::BlockScratchPlan(ArenaPlan& plan, const NetworkConfig& config, int64_t N, Precision precision) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden();
    int64_t gate_columns = 0;
    for (int64_t layer = 0; layer < model.layers; ++layer)
        if (has_gate(config, layer)) gate_columns = std::max(gate_columns, gate_shape(config, layer, 1).elements());
    const DType compute = precision.compute;
    branch_ = plan.add("branch", {N, C}, compute);
    if (gate_columns) gated_ = plan.add("gated", {N, NH, HS}, compute);
    dnorm_ = plan.add("dnorm", {N, C}, compute);
    if (F) dact_ = plan.add("dact", {N, F}, compute);
    dy_ = plan.add("dy", {N, NH, HS}, compute);
    if (gate_columns) dgate_ = plan.add("dgate", {N, gate_columns}, compute);
    dqkv_ = plan.add("dqkv", {N, NH + 2 * NKV, HS}, compute);
}

BlockScratch BlockScratchPlan::view(const Arena& arena, const NetworkConfig& config, int64_t layer, int64_t n) const {
    const auto rows = [&](ArenaSlot slot) { return first_rows(arena[slot], n); };
    BlockScratch scratch{.branch = rows(branch_),
                         .gated = {},
                         .dnorm = rows(dnorm_),
                         .dact = rows(dact_),
                         .dy = rows(dy_),
                         .dgate = {},
                         .dqkv = rows(dqkv_)};
    if (has_gate(config, layer)) {
        const Tensor gate = arena[dgate_];
        scratch.gated = rows(gated_);
        scratch.dgate = Tensor(gate.data, gate.dtype, gate_shape(config, layer, n));
    }
    return scratch;
}

}  // namespace plimsoll
