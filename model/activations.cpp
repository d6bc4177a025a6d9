#include "model/activations.h"

#include <algorithm>
#include <array>

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

// The tensors of a block for N tokens, and from which level on each is computed again; rank 0 where the layer has none.
struct PlannedTensor {
    Tensor BlockActivations::*tensor;
    const char* name;
    Recompute recomputed_from;
    Shape shape;
    DType dtype;
};
constexpr auto kNever = static_cast<Recompute>(static_cast<int>(Recompute::kBlock) + 1);
constexpr size_t kActivations = 17;

std::array<PlannedTensor, kActivations> activation_list(const NetworkConfig& config, int64_t layer, int64_t N,
                                                        Precision precision) {
    using A = BlockActivations;
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden(), up = F ? inputs_per_output(model.activation_kind()) * F : 0;
    const DType compute = precision.compute, stream = precision.stream();
    const bool mean = model.norm == "layer", qk_norm = model.qk_norm, mlp = F > 0;
    const bool lse = is_normalized(config.attention.spec(layer, model).weighting);
    const auto if_present = [](bool present, Shape shape) { return present ? shape : Shape{}; };
    const Shape gate = has_gate(config, layer) ? gate_shape(config, layer, N) : Shape{};
    return {{
        {&A::x, "x", kNever, {N, C}, stream},
        {&A::norm1, "norm1", Recompute::kLight, {N, C}, compute},
        {&A::mean1, "mean1", Recompute::kBlock, if_present(mean, {N}), stream},
        {&A::rstd1, "rstd1", Recompute::kBlock, {N}, stream},
        {&A::qkv, "qkv", Recompute::kBlock, {N, NH + 2 * NKV, HS}, compute},
        {&A::qk_normed, "qk_normed", Recompute::kBlock, if_present(qk_norm, {N, NH + NKV, HS}), compute},
        {&A::q_rstd, "q_rstd", Recompute::kBlock, if_present(qk_norm, {N, NH}), stream},
        {&A::k_rstd, "k_rstd", Recompute::kBlock, if_present(qk_norm, {N, NKV}), stream},
        {&A::gate, "gate", Recompute::kBlock, gate, compute},
        {&A::y, "y", Recompute::kBlock, {N, NH, HS}, compute},
        {&A::lse, "lse", Recompute::kBlock, if_present(lse, {NH, N}), stream},
        {&A::x_mid, "x_mid", Recompute::kBlock, if_present(mlp, {N, C}), stream},
        {&A::norm2, "norm2", Recompute::kLight, if_present(mlp, {N, C}), compute},
        {&A::mean2, "mean2", Recompute::kBlock, if_present(mlp && mean, {N}), stream},
        {&A::rstd2, "rstd2", Recompute::kBlock, if_present(mlp, {N}), stream},
        {&A::up, "up", Recompute::kBlock, if_present(mlp, {N, up}), compute},
        {&A::act, "act", Recompute::kLight, if_present(mlp, {N, F}), compute},
    }};
}

}  // namespace

Tensor first_rows(Tensor tensor, int64_t n) {
    return tensor ? tensor.slice_rows(0, n) : tensor;
}

Recompute recompute_of(const std::string& name) {
    if (name == "none") return Recompute::kNone;
    if (name == "light") return Recompute::kLight;
    if (name == "block") return Recompute::kBlock;
    fail_input("train.recompute = '{}'; wanted none, light or block", name);
}

ActivationPlan::ActivationPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage,
                               int64_t N, Precision precision, Recompute recompute)
    : precision_(precision), first_layer_(stage.first_layer), shared_(kActivations) {
    std::array<PlannedTensor, kActivations> largest{};  // over the layers, of what they share
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) {
        std::vector<ArenaSlot>& slots = kept_.emplace_back(kActivations);
        const auto list = activation_list(config, layer, N, precision);
        for (size_t i = 0; i < kActivations; ++i) {
            if (list[i].shape.rank() == 0) continue;
            if (recompute < list[i].recomputed_from)
                slots[i] = kept.add(fmt::format("blocks.{}.{}", layer, list[i].name), list[i].shape, list[i].dtype);
            else if (!largest[i].name || largest[i].shape.elements() < list[i].shape.elements())
                largest[i] = list[i];
        }
    }
    for (size_t i = 0; i < kActivations; ++i)
        if (largest[i].name)
            shared_[i] = shared.add(fmt::format("block.{}", largest[i].name), largest[i].shape, largest[i].dtype);
}

BlockActivations ActivationPlan::view(const Arena& kept, const Arena& shared, const NetworkConfig& config,
                                      int64_t layer, int64_t n) const {
    BlockActivations views;
    const std::vector<ArenaSlot>& slots = kept_[static_cast<size_t>(layer - first_layer_)];
    const auto list = activation_list(config, layer, n, precision_);
    for (size_t i = 0; i < kActivations; ++i) {
        if (list[i].shape.rank() == 0) continue;
        const Tensor memory = slots[i] ? kept[slots[i]] : shared[shared_[i]];
        views.*list[i].tensor = Tensor(memory.data, list[i].dtype, list[i].shape, memory.device);
    }
    return views;
}

void ActivationPlan::for_each_pair(const NetworkConfig& config, int64_t layer, const BlockActivations& a,
                                   const BlockActivations& b, const std::function<void(Tensor, Tensor)>& f) const {
    for (const PlannedTensor& planned : activation_list(config, layer, 1, precision_))
        if (a.*planned.tensor) f(a.*planned.tensor, b.*planned.tensor);
}

BlockScratchPlan::Operands BlockScratchPlan::add_operands(ArenaPlan& plan, const std::string& prefix,
                                                          const NetworkConfig& config, int64_t gate_columns, int64_t N,
                                                          DType compute) const {
    const ModelConfig& model = config.model;
    Operands operands;
    if (model.hidden()) operands.dact = plan.add(prefix + "dact", {N, model.hidden()}, compute);
    if (gate_columns) operands.dgate = plan.add(prefix + "dgate", {N, gate_columns}, compute);
    operands.dqkv = plan.add(prefix + "dqkv", {N, model.heads + 2 * model.key_heads(), model.head_channels()}, compute);
    return operands;
}

BlockScratchPlan::BlockScratchPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage,
                                   int64_t N, Precision precision, BackwardSplit split)
    : first_layer_(stage.first_layer) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, HS = model.head_channels();
    const auto columns = [&](int64_t layer) {
        return has_gate(config, layer) ? gate_shape(config, layer, 1).elements() : 0;
    };
    int64_t gate_columns = 0;
    for (int64_t layer = 0; layer < model.layers; ++layer) gate_columns = std::max(gate_columns, columns(layer));
    const DType compute = precision.compute;
    branch_ = shared.add("branch", {N, C}, compute);
    if (gate_columns > NH) gated_ = shared.add("gated", {N, NH, HS}, compute);
    dnorm_ = shared.add("dnorm", {N, C}, compute);
    dy_ = shared.add("dy", {N, NH, HS}, compute);
    if (split == BackwardSplit::kNo) {
        shared_ = add_operands(shared, "", config, gate_columns, N, compute);
        return;
    }
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) {
        const std::string prefix = fmt::format("blocks.{}.", layer);
        Operands& operands = kept_.emplace_back(add_operands(kept, prefix, config, columns(layer), N, compute));
        operands.dout = kept.add(prefix + "dout", {N, C}, compute);
        if (model.hidden()) operands.ddown = kept.add(prefix + "ddown", {N, C}, compute);
    }
}

BlockScratch BlockScratchPlan::view(const Arena& kept, const Arena& shared, const NetworkConfig& config, int64_t layer,
                                    int64_t n) const {
    const auto rows = [&](const Arena& arena, ArenaSlot slot) { return first_rows(arena[slot], n); };
    const Arena& arena = kept_.empty() ? shared : kept;
    const Operands& operands = kept_.empty() ? shared_ : kept_[static_cast<size_t>(layer - first_layer_)];
    BlockScratch scratch{.branch = rows(shared, branch_),
                         .gated = {},
                         .dnorm = rows(shared, dnorm_),
                         .dact = rows(arena, operands.dact),
                         .dy = rows(shared, dy_),
                         .dgate = {},
                         .dqkv = rows(arena, operands.dqkv),
                         .dout = rows(arena, operands.dout),
                         .ddown = rows(arena, operands.ddown)};
    if (has_gate(config, layer)) {
        const Tensor gate = arena[operands.dgate];
        scratch.gated = rows(shared, gated_);
        scratch.dgate = Tensor(gate.data, gate.dtype, gate_shape(config, layer, n), gate.device);
    }
    return scratch;
}

}  // namespace plimsoll
