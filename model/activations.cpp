#include "model/activations.h"

#include <algorithm>
#include <array>

namespace plimsoll {
namespace {

// The tensors of a block for N tokens, and from which level on each is computed again; rank 0 where the layer has none.
struct PlannedTensor {
    Tensor BlockActivations::*tensor;
    const char* name;
    Recompute recomputed_from;
    Shape shape;
    DType dtype;
};
constexpr auto kNever = static_cast<Recompute>(static_cast<int>(Recompute::kBlock) + 1);
constexpr size_t kActivations = 16;

std::array<PlannedTensor, kActivations> activation_list(const NetworkConfig& config, int64_t layer, int64_t N,
                                                        Precision precision) {
    using A = BlockActivations;
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, NKV = model.key_heads(), HS = model.head_channels(),
                  F = model.hidden(), up = F ? inputs_per_output(model.activation_kind()) * F : 0;
    const DType compute = precision.compute, stream = precision.stream();
    const bool mean = model.norm == "layer", qk_norm = model.qk_norm, mlp = F > 0;
    const bool lse = is_normalized(config.attention.spec(layer, model).weighting);
    const bool one = mlp && slope_follows_from_output(model.activation_kind());  // up is act's memory
    const auto if_present = [](bool present, Shape shape) { return present ? shape : Shape{}; };
    return {{
        {&A::x, "x", kNever, {N, C}, stream},
        {&A::norm1, "norm1", Recompute::kLight, {N, C}, compute},
        {&A::mean1, "mean1", Recompute::kBlock, if_present(mean, {N}), stream},
        {&A::rstd1, "rstd1", Recompute::kBlock, {N}, stream},
        {&A::qkv, "qkv", Recompute::kBlock, {N, NH + 2 * NKV, HS}, compute},
        {&A::qk_normed, "qk_normed", Recompute::kBlock, if_present(qk_norm, {N, NH + NKV, HS}), compute},
        {&A::q_rstd, "q_rstd", Recompute::kBlock, if_present(qk_norm, {N, NH}), stream},
        {&A::k_rstd, "k_rstd", Recompute::kBlock, if_present(qk_norm, {N, NKV}), stream},
        {&A::y, "y", Recompute::kBlock, {N, NH, HS}, compute},
        {&A::lse, "lse", Recompute::kBlock, if_present(lse, {NH, N}), stream},
        {&A::x_mid, "x_mid", Recompute::kBlock, if_present(mlp, {N, C}), stream},
        {&A::norm2, "norm2", Recompute::kLight, if_present(mlp, {N, C}), compute},
        {&A::mean2, "mean2", Recompute::kBlock, if_present(mlp && mean, {N}), stream},
        {&A::rstd2, "rstd2", Recompute::kBlock, if_present(mlp, {N}), stream},
        {&A::up, "up", Recompute::kBlock, if_present(mlp && !one, {N, up}), compute},
        {&A::act, "act", one ? Recompute::kBlock : Recompute::kLight, if_present(mlp, {N, F}), compute},
    }};
}

// Tensors of every layer's parts: in `kept`, each its own, or shared by the layers.
std::vector<PlannedPartTensors> plan_part_tensors(ArenaPlan& kept, ArenaPlan& shared, int64_t first_layer,
                                                  std::vector<std::vector<PartTensor>> layers, bool keep) {
    if (!keep) return PlannedPartTensors::add_shared(shared, "part.", std::move(layers));
    std::vector<PlannedPartTensors> planned;
    for (auto& tensors : layers) {
        const auto layer = first_layer + static_cast<int64_t>(planned.size());
        planned.push_back(PlannedPartTensors::add(kept, fmt::format("blocks.{}.", layer), std::move(tensors)));
    }
    return planned;
}

}  // namespace

Recompute recompute_of(const std::string& name) {
    if (name == "none") return Recompute::kNone;
    if (name == "light") return Recompute::kLight;
    if (name == "block") return Recompute::kBlock;
    fail_input("train.recompute = '{}'; wanted none, light or block", name);
}

ActivationPlan::ActivationPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage,
                               int64_t N, Precision precision, Recompute recompute)
    : precision_(precision),
      first_layer_(stage.first_layer),
      shared_(kActivations),
      qk_sources_(kept, shared, config, stage, N, precision) {
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
    parts_in_shared_ = recompute >= Recompute::kBlock;
    std::vector<std::vector<PartTensor>> parts;
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer)
        parts.push_back(LayerParts(config, layer).needs(N, precision).kept);
    parts_ = plan_part_tensors(kept, shared, stage.first_layer, std::move(parts), !parts_in_shared_);
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
    if (!views.up) views.up = views.act;
    views.qk_source = qk_sources_.view(kept, config.attention.qk_source_at(layer), n);
    views.parts = parts_[static_cast<size_t>(layer - first_layer_)].view(parts_in_shared_ ? shared : kept, n);
    return views;
}

void ActivationPlan::for_each_pair(const NetworkConfig& config, int64_t layer, const BlockActivations& a,
                                   const BlockActivations& b, const std::function<void(Tensor, Tensor)>& f) const {
    for (const PlannedTensor& planned : activation_list(config, layer, 1, precision_))
        if (planned.shape.rank() > 0) f(a.*planned.tensor, b.*planned.tensor);
    for (size_t i = 0; i < parts_[static_cast<size_t>(layer - first_layer_)].size(); ++i) f(a.parts[i], b.parts[i]);
}

BlockScratchPlan::Operands BlockScratchPlan::add_operands(ArenaPlan& plan, const std::string& prefix,
                                                          const NetworkConfig& config, int64_t N, DType compute) const {
    const ModelConfig& model = config.model;
    Operands operands;
    if (model.hidden()) operands.dact = plan.add(prefix + "dact", {N, model.hidden()}, compute);
    operands.dqkv = plan.add(prefix + "dqkv", {N, model.heads + 2 * model.key_heads(), model.head_channels()}, compute);
    return operands;
}

BlockScratchPlan::BlockScratchPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage,
                                   int64_t N, Precision precision, BackwardSplit split)
    : first_layer_(stage.first_layer) {
    const ModelConfig& model = config.model;
    const int64_t C = model.channels, NH = model.heads, HS = model.head_channels();
    const DType compute = precision.compute;
    branch_ = shared.add("branch", {N, C}, compute);
    dnorm_ = shared.add("dnorm", {N, C}, compute);
    dy_ = shared.add("dy", {N, NH, HS}, compute);
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer)
        reads_embedding_.push_back(config.attention.qk_source_at(layer) == QkSource::kEmbedding);
    if (reads_source(config, stage, QkSource::kEmbedding))
        dembedding_ = shared.add("dembedding", {N, C}, precision.stream());
    std::vector<std::vector<PartTensor>> part_operands, part_scratch;
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) {
        PartNeeds needs = LayerParts(config, layer).needs(N, precision);
        part_operands.push_back(std::move(needs.operands));
        part_scratch.push_back(std::move(needs.scratch));
    }
    const bool keep = split == BackwardSplit::kYes;
    part_operands_ = plan_part_tensors(kept, shared, stage.first_layer, std::move(part_operands), keep);
    part_scratch_ = PlannedPartTensors::add_shared(shared, "part.", std::move(part_scratch));
    if (!keep) {
        shared_ = add_operands(shared, "", config, N, compute);
        return;
    }
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) {
        const std::string prefix = fmt::format("blocks.{}.", layer);
        Operands& operands = kept_.emplace_back(add_operands(kept, prefix, config, N, compute));
        operands.dout = kept.add(prefix + "dout", {N, C}, compute);
        if (model.hidden()) operands.ddown = kept.add(prefix + "ddown", {N, C}, compute);
    }
}

BlockScratch BlockScratchPlan::view(const Arena& kept, const Arena& shared, int64_t layer, int64_t n) const {
    const auto rows = [&](const Arena& arena, ArenaSlot slot) { return first_rows(arena[slot], n); };
    const Arena& arena = kept_.empty() ? shared : kept;
    const Operands& operands = kept_.empty() ? shared_ : kept_[static_cast<size_t>(layer - first_layer_)];
    const auto block = static_cast<size_t>(layer - first_layer_);
    return {.branch = rows(shared, branch_),
            .dnorm = rows(shared, dnorm_),
            .dact = rows(arena, operands.dact),
            .dy = rows(shared, dy_),
            .dqkv = rows(arena, operands.dqkv),
            .dembedding = reads_embedding_[block] ? dembedding(shared, n) : Tensor{},
            .dout = rows(arena, operands.dout),
            .ddown = rows(arena, operands.ddown),
            .part_operands = part_operands_[block].view(arena, n),
            .part_scratch = part_scratch_[block].view(shared, n)};
}

}  // namespace plimsoll
