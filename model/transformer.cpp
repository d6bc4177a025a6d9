#include "model/transformer.h"

#include "kernels/embedding.h"
#include "kernels/memory.h"
#include "kernels/residual.h"
#include "kernels/trace.h"

namespace plimsoll {
namespace {

const NetworkConfig& validated(const NetworkConfig& config) {
    config.validate();
    return config;
}

}  // namespace

int64_t ModelPlan::bytes() const {
    return parameters.bytes() + gradients.bytes() + activation_sets * activations.bytes() + scratch.bytes();
}

Transformer::Transformer(const NetworkConfig& config, StageRange stage, int64_t N, Precision precision,
                         ActivationOptions options)
    : config_(validated(config)),
      stage_(stage),
      N_(N),
      precision_(precision),
      options_(options),
      table_(config_, stage),
      block_plan_(plan_.activations, plan_.scratch, config_, stage, N, precision, options.recompute),
      scratch_plan_(plan_.activations, plan_.scratch, config_, stage, N, precision, options.split) {
    check(options.split == BackwardSplit::kNo || options.recompute == Recompute::kNone,
          "a split backward keeps all activations; recompute must be none");
    if (stage.head) head_.emplace(plan_.activations, plan_.scratch, config_, N, precision);
    plan_.activation_sets = options.sets;
    const int64_t elements = table_.buffer_elements();
    const DType stream = precision.stream();
    parameter_slot_ = plan_.parameters.add("parameters", {elements}, stream);
    if (precision.compute != stream)
        working_slot_ = plan_.parameters.add("working copy", {elements}, precision.compute);
    gradient_slot_ = plan_.gradients.add("gradients", {elements}, stream);
    loss_slot_ = plan_.gradients.add("loss sums", {3}, DType::kF64);  // summed over micro batches like gradients
    last_x_slot_ = plan_.activations.add("x", {N, config_.model.channels}, stream);
    dx_slot_ = plan_.activations.add("dx", {N, config_.model.channels}, stream);
}

void Transformer::allocate(Device device) {
    parameters_ = Arena(plan_.parameters, device);
    gradients_ = Arena(plan_.gradients, device);
    for (int set = 0; set < options_.sets; ++set) activations_.emplace_back(plan_.activations, device);
    scratch_ = Arena(plan_.scratch, device);
    // Gaps between parameters are never written by an op, and flat loops (norm, optimizer) read them.
    parameters_.zero();
    gradients_.zero();
    const Tensor matrices = working() ? working() : parameters();
    for (int64_t layer = stage_.first_layer; layer < stage_.last_layer; ++layer) {
        block_parameters_.push_back(block_tensors(table_, layer, matrices, parameters()));
        block_gradients_.push_back(block_tensors(table_, layer, gradients(), gradients()));
    }
}

void Transformer::refresh_working(const Exec& exec) {
    if (!working()) return;
    const int64_t elements = table_.buffer_elements();
    convert(working().reshape({1, elements}), parameters().reshape({1, elements}), exec);
}

Block Transformer::block(int64_t layer, int64_t n, int set) {
    const auto index = static_cast<size_t>(layer - stage_.first_layer);
    return Block(config_, layer, block_parameters_[index], block_gradients_[index],
                 block_plan_.view(activations(set), scratch_, config_, layer, n),
                 scratch_plan_.view(activations(set), scratch_, config_, layer, n));
}

Tensor Transformer::stream_after(int64_t layer, int64_t n, int set) const {
    if (layer + 1 < stage_.last_layer) return block_plan_.view(activations(set), scratch_, config_, layer + 1, n).x;
    return stream_out(n, set);
}

void Transformer::forward_hidden(Block& block, CoreAttention& core, const ModelInput& input, const Exec& exec) {
    block.forward_pre(input.positions, exec);
    core.forward(block.core_tensors(), input.cu_seqlens, block.spec(), exec);
    block.forward_hidden(exec);
}

Block Transformer::block(CoreAttention& core, const ModelInput& input, int64_t layer, const Exec& exec) {
    Block here = block(layer, static_cast<int64_t>(input.tokens.size()), input.set);
    if (options_.recompute == Recompute::kBlock) forward_hidden(here, core, input, exec);
    if (options_.recompute == Recompute::kLight) here.norm1(exec), here.restore_hidden(exec);
    return here;
}

void Transformer::copy_activations(Transformer& from, CoreAttention& core, const ModelInput& input, const Exec& exec) {
    const auto n = static_cast<int64_t>(input.tokens.size());
    for (int64_t layer = stage_.first_layer; layer < stage_.last_layer; ++layer) {
        const Block there = from.block(core, input, layer, exec);
        block_plan_.for_each_pair(config_, layer, block(layer, n, 0).activations(), there.activations(),
                                  [&](Tensor to, Tensor source) { copy_tensor(to, source, exec); });
    }
    copy_tensor(stream_out(n, 0), from.stream_out(n, 0), exec);
}

LmHeadTensors Transformer::head(int64_t n, int set) const {
    LmHeadTensors t = head_->view(activations(set), scratch_, n);
    const auto get = [&](const char* name, Tensor buffer) { return table_.view(buffer, table_.find(name)); };
    const char* weight = config_.model.tied ? "wte.weight" : "lm_head.weight";
    t.sums = gradients_[loss_slot_];
    t.x = stream_out(n, set);
    t.norm_gain = get("final_norm.gain", parameters()), t.norm_bias = get("final_norm.bias", parameters());
    t.weight = get(weight, working() ? working() : parameters());
    t.dnorm_gain = get("final_norm.gain", gradients()), t.dnorm_bias = get("final_norm.bias", gradients());
    t.dweight = get(weight, gradients());
    return t;
}

LossSums Transformer::loss(const Exec& exec) const {
    return head_ ? head_->loss(head(1, 0), exec) : LossSums{};
}

void Transformer::blocks_forward(CoreAttention& core, const ModelInput& input, const LayerCallback& before_layer,
                                 const Exec& exec) {
    const int64_t n = static_cast<int64_t>(input.tokens.size());
    check(n <= N_, "micro batch of {} tokens; memory was planned for {}", n, N_);
    check(input.targets.size() == input.tokens.size(), "{} targets for {} tokens", input.targets.size(), n);
    before_layer(-1);
    const auto get = [&](const char* name) { return table_.view(parameters(), table_.find(name)); };
    if (stage_.embedding)
        embedding_forward(stream_in(n, input.set), input.tokens, input.positions, get("wte.weight"), get("wpe.weight"),
                          exec);
    for (int64_t layer = stage_.first_layer; layer < stage_.last_layer; ++layer) {
        const TraceRange range(exec, "forward block", layer);
        before_layer(layer);
        Block here = block(layer, n, input.set);
        here.forward_pre(input.positions, exec);
        core.forward(here.core_tensors(), input.cu_seqlens, here.spec(), exec);
        here.forward_post(stream_after(layer, n, input.set), exec);
    }
    before_layer(config_.model.layers);
}

void Transformer::head_forward(const ModelInput& input, DType logits_dtype, Write write, const Exec& exec) {
    const auto n = static_cast<int64_t>(input.tokens.size());
    head_->forward(head(n, input.set), input.targets, logits_dtype, write, exec);
}

void Transformer::forward(CoreAttention& core, const ModelInput& input, Write write, const LayerCallback& before_layer,
                          const Exec& exec) {
    blocks_forward(core, input, before_layer, exec);
    if (head_ && options_.sets == 1) head_forward(input, precision_.compute, write, exec);
}

LossSums Transformer::evaluate(CoreAttention& core, const ModelInput& input, const Exec& exec) {
    blocks_forward(
        core, input, [](int64_t) {}, exec);
    head_forward(input, precision_.stream(), Write::kOverwrite, exec);
    return loss(exec);
}

void Transformer::backward(CoreAttention& core, const ModelInput& input, Write write, BackwardPart part,
                           const LayerCallback& on_ready, const Exec& exec) {
    const int64_t n = static_cast<int64_t>(input.tokens.size());
    const bool inputs = part != BackwardPart::kWeights, weights = part != BackwardPart::kInputs;
    const Tensor dx = stream_gradient(n, input.set);
    if (head_ && inputs) {
        if (options_.sets > 1) head_forward(input, precision_.compute, write, exec);
        head_->backward(dx, head(n, input.set), input.targets, 1.0, write, exec);
    }
    if (weights) on_ready(config_.model.layers);
    for (int64_t layer = stage_.last_layer; layer-- > stage_.first_layer;) {
        const TraceRange range(exec, "backward block", layer);
        Block here = block(layer, n, input.set);
        if (options_.recompute == Recompute::kBlock) forward_hidden(here, core, input, exec);
        if (options_.recompute == Recompute::kLight) here.restore_hidden(exec);
        here.backward_post(dx, write, part, exec);
        if (inputs)
            core.backward(here.core_gradients(), here.core_tensors(), input.cu_seqlens, here.spec(), write, exec);
        if (options_.recompute == Recompute::kLight) here.norm1(exec);
        here.backward_pre(dx, input.positions, write, part, exec);
        if (weights) on_ready(layer);
    }
    if (!weights) return;
    if (stage_.embedding) embedding_gradients(input, dx, write, exec);
    on_ready(-1);
}

// The tables are added to: a tied one already holds the head's gradient.
void Transformer::embedding_gradients(const ModelInput& input, Tensor dx, Write write, const Exec& exec) {
    const auto gradient = [&](const char* name) { return table_.view(gradients(), table_.find(name)); };
    const Tensor dtoken = gradient("wte.weight"), dposition = gradient("wpe.weight");
    const bool holds_head = head_ && config_.model.tied;
    if (write == Write::kOverwrite && !holds_head) fill_zero(dtoken, exec);
    if (write == Write::kOverwrite && dposition) fill_zero(dposition, exec);
    embedding_backward(dtoken, dposition, dx, input.tokens, input.positions, exec);
}

}  // namespace plimsoll
