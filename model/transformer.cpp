#include "model/transformer.h"

#include "kernels/decorrelation.h"
#include "kernels/embedding.h"
#include "kernels/memory.h"
#include "kernels/residual.h"
#include "kernels/trace.h"

namespace plimsoll {
namespace {

// Of the loss whose gradient is taken; the optimizer divides by the scored positions.
constexpr double kLossScale = 1;

const NetworkConfig& validated(const NetworkConfig& config) {
    config.validate();
    return config;
}

}  // namespace

int64_t ModelPlan::bytes() const {
    return parameters.bytes() + gradients.bytes() + activation_sets * activations.bytes() + lanes * scratch.bytes() +
           head.bytes();
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
    for (int64_t layer = stage.first_layer; layer < stage.last_layer; ++layer) parts_.emplace_back(config_, layer);
    if (stage.head) head_.emplace(plan_.activations, plan_.head, config_, N, precision);
    check(options.lanes >= 1 && options.sets % options.lanes == 0, "{} sets of activations for {} lanes", options.sets,
          options.lanes);
    plan_.activation_sets = options.sets, plan_.lanes = options.lanes;
    const int64_t elements = table_.buffer_elements();
    const DType stream = precision.stream();
    parameter_slot_ = plan_.parameters.add("parameters", {elements}, stream);
    if (reads_source(config_, stage, QkSource::kPosition))
        vectors_slot_ =
            plan_.parameters.add("vectors of positions", {config_.model.context, config_.model.channels}, stream);
    if (precision.compute != stream)
        working_slot_ = plan_.parameters.add("working copy", {elements}, precision.compute);
    gradient_slot_ = plan_.gradients.add("gradients", {elements}, stream);
    loss_slot_ = plan_.gradients.add("loss sums", {3}, DType::kF64);  // summed over micro batches like gradients
    if (config_.loss.bos_decorrelation > 0) {
        decorrelation_slot_ = plan_.gradients.add("decorrelation sum", {1}, DType::kF64);
        squares_slot_ = plan_.scratch.add("decorrelation squares", {N}, stream);
    }
    if (options.squares && precision.compute != stream) {
        check(stage.embedding && stage.head, "sums of squares of gradients want a whole network");
        squares_.emplace(plan_.gradients, table_);
    }
    last_x_slot_ = plan_.activations.add("x", {N, config_.model.channels}, stream);
    dx_slot_ = plan_.activations.add("dx", {N, config_.model.channels}, stream);
}

void Transformer::allocate(Device device) {
    parameters_ = Arena(plan_.parameters, device);
    gradients_ = Arena(plan_.gradients, device);
    for (int set = 0; set < options_.sets; ++set) activations_.emplace_back(plan_.activations, device);
    for (int lane = 0; lane < options_.lanes; ++lane) scratch_.emplace_back(plan_.scratch, device);
    head_scratch_ = Arena(plan_.head, device);
    // Gaps between parameters are never written by an op, and flat loops (norm, optimizer) read them.
    parameters_.zero();
    gradients_.zero();
    if (device != Device::kCpu) squares_.reset();
    const Tensor matrices = working() ? working() : parameters();
    for (int64_t layer = stage_.first_layer; layer < stage_.last_layer; ++layer) {
        block_parameters_.push_back(block_tensors(table_, parts_of(layer), layer, matrices, parameters()));
        block_gradients_.push_back(block_tensors(table_, parts_of(layer), layer, gradients(), gradients()));
        if (!squares_) continue;
        const auto squares = [&](const char* name) {
            return squares_->of(gradients_, fmt::format("blocks.{}.{}", layer, name));
        };
        BlockTensors& d = block_gradients_.back();
        d.qkv_squares = squares("attn.qkv.weight"), d.out_squares = squares("attn.out.weight");
        d.up_squares = squares("mlp.up.weight"), d.down_squares = squares("mlp.down.weight");
    }
}

double Transformer::sum_of_gradient_squares(const Exec& exec) const {
    return squares_ ? squares_->sum(gradients_, gradients(), exec) : sum_of_squares(gradients(), exec);
}

void Transformer::refresh_working(const Exec& exec) {
    if (vectors_slot_ && !has_vectors_) fill_position_vectors(parameters_[vectors_slot_], exec), has_vectors_ = true;
    if (!working()) return;
    const int64_t elements = table_.buffer_elements();
    convert(working().reshape({1, elements}), parameters().reshape({1, elements}), exec);
}

Block Transformer::block(int64_t layer, int64_t n, int set) {
    const auto index = static_cast<size_t>(layer - stage_.first_layer);
    return Block(config_, parts_[index], layer, block_parameters_[index], block_gradients_[index],
                 block_plan_.view(activations(set), scratch(set), config_, layer, n),
                 scratch_plan_.view(activations(set), scratch(set), layer, n));
}

Tensor Transformer::stream_after(int64_t layer, int64_t n, int set) const {
    if (layer + 1 < stage_.last_layer) return block_plan_.view(activations(set), scratch(set), config_, layer + 1, n).x;
    return stream_out(n, set);
}

// Of a whole network, a CPU's head makes it in place of the stream it read: there is less memory to go through. A stage
// may still be sending it when the next micro batch's stream is made; a GPU sums the norm's gain's gradient behind dx.
Tensor Transformer::stream_gradient(int64_t n, int set) const {
    const Arena& arena = activations(set);
    const bool in_place = head_ && stage_.embedding && arena[dx_slot_].device == Device::kCpu;
    return first_rows(arena[in_place ? last_x_slot_ : dx_slot_], n);
}

AttentionCall Transformer::call(const Block& block, const ModelInput& input, int64_t layer) const {
    return {.t = block.core_tensors(),
            .cu_seqlens = input.cu_seqlens,
            .spec = block.spec(),
            .layer = layer,
            .lane = input.set % options_.lanes};
}

AttentionCall Transformer::backward_call(const Block& block, const ModelInput& input, int64_t layer,
                                         Write write) const {
    AttentionCall result = call(block, input, layer);
    result.d = block.core_gradients();
    result.write = write;
    return result;
}

void Transformer::forward_hidden(int64_t layer, CoreAttention& core, const ModelInput& input, const Exec& exec) {
    Block here = block(layer, static_cast<int64_t>(input.tokens.size()), input.set);
    here.forward_pre(input.positions, exec);
    core.forward(call(here, input, layer), exec);
    here.forward_hidden(exec);
}

Block Transformer::block(CoreAttention& core, const ModelInput& input, int64_t layer, const Exec& exec) {
    Block here = block(layer, static_cast<int64_t>(input.tokens.size()), input.set);
    if (options_.recompute == Recompute::kBlock) forward_hidden(layer, core, input, exec);
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
    LmHeadTensors t = head_->view(activations(set), head_scratch_, n);
    const auto get = [&](const char* name, Tensor buffer) { return table_.view(buffer, table_.find(name)); };
    const char* weight = config_.model.tied ? "wte.weight" : "lm_head.weight";
    t.sums = gradients_[loss_slot_];
    t.x = stream_out(n, set);
    t.norm_gain = get("final_norm.gain", parameters()), t.norm_bias = get("final_norm.bias", parameters());
    t.weight = get(weight, working() ? working() : parameters());
    t.dnorm_gain = get("final_norm.gain", gradients()), t.dnorm_bias = get("final_norm.bias", gradients());
    t.dweight = get(weight, gradients());
    if (squares_) t.squares = squares_->of(gradients_, weight);
    return t;
}

LossSums Transformer::loss(const Exec& exec) const {
    LossSums sums = head_ ? head_->loss(head(1, 0), exec) : LossSums{};
    if (const Tensor sum = gradients_[decorrelation_slot_]) {
        double squares = 0;
        copy_tensor(Tensor(&squares, DType::kF64, {1}), sum, exec);
        sums.decorrelation = squares / static_cast<double>(config_.model.layers);
    }
    return sums;
}

void Transformer::check_inputs(ModelInputs inputs) const {
    check(!inputs.empty() && inputs.size() <= static_cast<size_t>(options_.lanes),
          "{} micro batches in turns, {} lanes", inputs.size(), options_.lanes);
    for (const ModelInput& input : inputs) {
        check(static_cast<int64_t>(input.tokens.size()) <= N_, "micro batch of {} tokens; memory was planned for {}",
              input.tokens.size(), N_);
        check(input.targets.size() == input.tokens.size(), "{} targets for {} tokens", input.targets.size(),
              input.tokens.size());
        check(inputs.size() == 1 || input.set % options_.lanes == &input - inputs.data(),
              "micro batch {} of those computed in turns is in set {}", &input - inputs.data(), input.set);
    }
}

// A layer is entered before core attention and left after it; with several micro batches each leaves the layer before
// only when it enters the next, while the others' core attention is on its way.
void Transformer::blocks_forward(CoreAttention& core, ModelInputs inputs, const LayerCallback& before_layer,
                                 const Exec& exec) {
    check_inputs(inputs);
    const auto here = [&](const ModelInput& input, int64_t layer) {
        return block(layer, static_cast<int64_t>(input.tokens.size()), input.set);
    };
    const auto enter = [&](const ModelInput& input, int64_t layer) {
        const TraceRange range(exec, "enter block", layer);
        Block block = here(input, layer);
        block.forward_pre(input.positions, exec);
        core.begin_forward(call(block, input, layer), exec);
    };
    const auto leave = [&](const ModelInput& input, int64_t layer) {
        const TraceRange range(exec, "leave block", layer);
        Block block = here(input, layer);
        core.end_forward(call(block, input, layer), exec);
        block.forward_post(stream_after(layer, static_cast<int64_t>(input.tokens.size()), input.set), exec);
    };
    before_layer(-1);
    const auto get = [&](const char* name) { return table_.view(parameters(), table_.find(name)); };
    for (const ModelInput& input : inputs)
        if (stage_.embedding)
            embedding_forward(stream_in(static_cast<int64_t>(input.tokens.size()), input.set), input.tokens,
                              input.positions, get("wte.weight"), get("wpe.weight"), exec);
    for (const ModelInput& input : inputs)
        block_plan_.qk_sources().forward(activations(input.set), scratch(input.set),
                                         stream_in(static_cast<int64_t>(input.tokens.size()), input.set),
                                         input.positions, parameters_[vectors_slot_], exec);
    for (int64_t layer = stage_.first_layer; layer < stage_.last_layer; ++layer) {
        before_layer(layer);
        for (const ModelInput& input : inputs) {
            if (layer > stage_.first_layer) leave(input, layer - 1);
            enter(input, layer);
        }
        for (const ModelInput& input : inputs) {
            const TraceRange range(exec, "core attention", layer);
            core.compute_forward(call(here(input, layer), input, layer), exec);
        }
    }
    if (stage_.last_layer > stage_.first_layer)
        for (const ModelInput& input : inputs) leave(input, stage_.last_layer - 1);
    before_layer(config_.model.layers);
}

void Transformer::head_training_forward(const ModelInput& input, Write write, const Exec& exec) {
    const TraceRange range(exec, "head");
    const auto n = static_cast<int64_t>(input.tokens.size());
    head_->training_forward(head(n, input.set), input.targets, kLossScale, write, exec);
}

void Transformer::head_backward(const ModelInput& input, Write write, const Exec& exec) {
    const TraceRange range(exec, "backward head");
    const auto n = static_cast<int64_t>(input.tokens.size());
    head_->backward(stream_gradient(n, input.set), gradient_for(stage_.last_layer - 1, input), head(n, input.set),
                    input.targets, kLossScale, write, exec);
}

// Not where something else changes the stream's gradient between blocks, or uses the memory.
Tensor Transformer::gradient_for(int64_t layer, const ModelInput& input) {
    if (layer < stage_.first_layer || decorrelation_slot_ || options_.recompute == Recompute::kBlock) return {};
    return block(layer, static_cast<int64_t>(input.tokens.size()), input.set).branch_gradient();
}

void Transformer::forward(CoreAttention& core, ModelInputs inputs, Write write, const LayerCallback& before_layer,
                          const Exec& exec) {
    blocks_forward(core, inputs, before_layer, exec);
    if (head_ && options_.sets == 1) head_training_forward(inputs.front(), write, exec);
}

LossSums Transformer::evaluate(CoreAttention& core, const ModelInput& input, const Exec& exec) {
    blocks_forward(
        core, {&input, 1}, [](int64_t) {}, exec);
    const TraceRange range(exec, "head");
    head_->forward(head(static_cast<int64_t>(input.tokens.size()), input.set), input.targets, precision_.stream(),
                   Write::kOverwrite, exec);
    return head_->loss(head(1, 0), exec);
}

void Transformer::block_backward(int64_t layer, CoreAttention& core, ModelInputs inputs, Write write, BackwardPart part,
                                 const Exec& exec) {
    const TraceRange range(exec, "backward block", layer);
    const auto here = [&](const ModelInput& input) {
        return block(layer, static_cast<int64_t>(input.tokens.size()), input.set);
    };
    const auto write_of = [&](const ModelInput& input) { return &input == inputs.data() ? write : Write::kAccumulate; };
    const auto dx_of = [&](const ModelInput& input) {
        return stream_gradient(static_cast<int64_t>(input.tokens.size()), input.set);
    };
    const auto call_of = [&](const ModelInput& input) {
        return backward_call(here(input), input, layer, write_of(input));
    };
    for (const ModelInput& input : inputs) {
        Block block = here(input);
        if (options_.recompute == Recompute::kBlock) forward_hidden(layer, core, input, exec);
        if (options_.recompute == Recompute::kLight) block.restore_hidden(exec);
        // Whoever came before in this backward has asked gradient_for the same layer.
        const bool made = (head_ || layer + 1 < stage_.last_layer) && gradient_for(layer, input);
        block.backward_post(dx_of(input), write_of(input), part, exec,
                            made ? BranchGradient::kReady : BranchGradient::kToMake);
        if (of_inputs(part)) core.begin_backward(call_of(input), exec);
    }
    for (const ModelInput& input : inputs)
        if (of_inputs(part)) core.compute_backward(call_of(input), exec);
    for (const ModelInput& input : inputs) {
        Block block = here(input);
        if (of_inputs(part)) core.end_backward(call_of(input), exec);
        if (options_.recompute == Recompute::kLight) block.norm1(exec);
        block.backward_pre(dx_of(input), input.positions, write_of(input), part, exec, gradient_for(layer - 1, input));
    }
}

void Transformer::backward(CoreAttention& core, ModelInputs inputs, Write write, BackwardPart part,
                           const LayerCallback& on_ready, const Exec& exec) {
    check_inputs(inputs);
    const auto each = [&](auto&& f) {
        for (const ModelInput& input : inputs) {
            const auto n = static_cast<int64_t>(input.tokens.size());
            f(input, n, &input == inputs.data() ? write : Write::kAccumulate);
        }
    };
    if (const Tensor sum = gradients_[decorrelation_slot_]; sum && of_inputs(part) && write == Write::kOverwrite)
        fill_zero(sum, exec);
    if (head_ && of_inputs(part))
        each([&](const ModelInput& input, int64_t, Write here) {
            if (options_.sets > 1) head_training_forward(input, here, exec);
            head_backward(input, here, exec);
        });
    const auto of_embeddings = [&](auto&& f) {
        each([&](const ModelInput& input, int64_t n, Write) {
            if (const Tensor d = scratch_plan_.dembedding(scratch(input.set), n); d && of_inputs(part)) f(input, n, d);
        });
    };
    of_embeddings([&](const ModelInput&, int64_t, Tensor d) { fill_zero(d, exec); });
    if (of_weights(part)) on_ready(config_.model.layers);
    for (int64_t layer = stage_.last_layer; layer-- > stage_.first_layer;) {
        block_backward(layer, core, inputs, write, part, exec);
        if (of_inputs(part)) decorrelate(layer, inputs, exec);
        if (of_weights(part)) on_ready(layer);
    }
    of_embeddings([&](const ModelInput& input, int64_t n, Tensor d) {
        residual_forward(stream_gradient(n, input.set), stream_gradient(n, input.set), d, exec);
    });
    if (!of_weights(part)) return;
    if (stage_.embedding)
        each([&](const ModelInput& input, int64_t n, Write here) {
            embedding_gradients(input, stream_gradient(n, input.set), here, exec);
        });
    on_ready(-1);
}

// By the sum over scored positions, as all gradients are: whatever the layout, they are divided by the step's number.
void Transformer::decorrelate(int64_t layer, ModelInputs inputs, const Exec& exec) {
    const Tensor sum = gradients_[decorrelation_slot_];
    if (!sum) return;
    for (const ModelInput& input : inputs) {
        const auto n = static_cast<int64_t>(input.tokens.size());
        decorrelation_backward(stream_gradient(n, input.set), sum, first_rows(scratch(input.set)[squares_slot_], n),
                               stream_after(layer - 1, n, input.set), input.positions,
                               config_.loss.bos_decorrelation / static_cast<double>(config_.model.layers), exec);
    }
}

// The tables are added to: a tied one already holds the head's gradient.
void Transformer::embedding_gradients(const ModelInput& input, Tensor dx, Write write, const Exec& exec) {
    const auto gradient = [&](const char* name) { return table_.view(gradients(), table_.find(name)); };
    const Tensor dtoken = gradient("wte.weight"), dposition = gradient("wpe.weight");
    const bool holds_head = head_ && config_.model.tied;
    if (write == Write::kOverwrite && !holds_head) fill_zero(dtoken, exec);
    if (write == Write::kOverwrite && dposition) fill_zero(dposition, exec);
    embedding_backward(dtoken, dposition, dx, input.tokens, input.positions, exec);
    if (!squares_) return;
    if (const Tensor of_table = squares_->of(gradients_, "wte.weight"))
        block_squares(of_table, dtoken, input.tokens, exec);
}

}  // namespace plimsoll
