// The network, or the part of it that one pipeline stage holds.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "model/block.h"
#include "model/gradient_squares.h"
#include "model/lm_head.h"

namespace plimsoll {

// One micro batch as the network reads it: n flat tokens.
struct ModelInput {
    std::span<const int32_t> tokens;      // (n) ids
    std::span<const int32_t> targets;     // (n) ids, -1 = not scored
    std::span<const int32_t> positions;   // (n)
    std::span<const int32_t> cu_seqlens;  // where documents start, then n
    int set = 0;                          // of activations: which of ActivationOptions::sets it is computed in
};
// One micro batch, or several that are computed in turns (ping-pong): while core attention of one travels between
// ranks, the others compute. To the bit what they give one after the other.
using ModelInputs = std::span<const ModelInput>;

// What is kept from forward to backward, and how often.
struct ActivationOptions {
    Recompute recompute = Recompute::kNone;
    int sets = 1;   // micro batches that can be between forward and backward
    int lanes = 1;  // micro batches that are computed in turns: a set's lane is set % lanes, and each has its scratch
    BackwardSplit split = BackwardSplit::kNo;
    // Products leave the sums of squares of weight gradients for sum_of_gradient_squares(). On the CPU; elsewhere
    // nothing.
    bool squares = false;
};

// Called with a layer: a block, -1 for what comes before the blocks, L for what comes after.
using LayerCallback = std::function<void(int64_t)>;

// What a Transformer will allocate, known before it does.
struct ModelPlan {
    ArenaPlan parameters{"parameters"}, gradients{"gradients"}, activations{"activations"}, scratch{"scratch"};
    ArenaPlan head{"scratch of the head"};
    int activation_sets = 1;  // there are so many arenas of activations
    int lanes = 1;            // and of scratch
    int64_t bytes() const;
};

class Transformer {
  public:
    // Plans for micro batches of up to N tokens, and allocates nothing. Throws Error (78) for an impossible
    // configuration.
    Transformer(const NetworkConfig& config, StageRange stage, int64_t N, Precision precision,
                ActivationOptions options = {});
    // Allocates the arenas. Parameters are zero until initialize() or a checkpoint fills them.
    void allocate(Device device = Device::kCpu);

    const NetworkConfig& config() const { return config_; }
    const StageRange& stage() const { return stage_; }
    const ParameterTable& table() const { return table_; }
    const ModelPlan& plan() const { return plan_; }
    Precision precision() const { return precision_; }
    // Flat buffers, laid out by table(): masters and gradients in the stream's dtype; `working` is the copy of the
    // parameters that matmuls read, empty if they read the masters.
    Tensor parameters() const { return parameters_[parameter_slot_]; }
    Tensor working() const { return parameters_[working_slot_]; }
    Tensor gradients() const { return gradients_[gradient_slot_]; }
    // Rounds the masters to the working copy, and fills what is no parameter but constant (the vectors of positions of
    // attention.qk_source): after initialize() or a load; optimizers keep it up to date.
    void refresh_working(const Exec& exec);

    // Micro batches forward; their loss is written to the sums that loss() returns (the first one's; others are added),
    // or added to them. `before_layer` is called before a layer's parameters are read. Does not wait for the device.
    // Several inputs need a lane each.
    // A stage without the embedding reads stream_in(), one without the head leaves stream_out(). With several sets of
    // activations the head runs in backward(): its logits have one buffer.
    void forward(CoreAttention& core, ModelInputs inputs, Write write, const LayerCallback& before_layer,
                 const Exec& exec);
    void forward(CoreAttention& core, const ModelInput& input, Write write, const Exec& exec) {
        forward(
            core, {&input, 1}, write, [](int64_t) {}, exec);
    }
    // Sums of the loss over the micro batches since one was written, but for what other stages compute of it. Waits for
    // the device.
    LossSums loss(const Exec& exec) const;
    // The loss of one micro batch with logits rounded to fp32, for evaluation; backward() may not follow. Needs a whole
    // network.
    LossSums evaluate(CoreAttention& core, const ModelInput& input, const Exec& exec);
    // Gradients of the sum (not mean) of losses of the last forward() of these sets, the first written or added, others
    // added. `on_ready` is called when a layer's gradients of these micro batches are complete. A stage without the
    // head reads stream_gradient() as that of stream_out(), one without the embedding leaves that of stream_in() there.
    // The weights of a head's product belong to BackwardPart::kInputs.
    void backward(CoreAttention& core, ModelInputs inputs, Write write, BackwardPart part,
                  const LayerCallback& on_ready, const Exec& exec);
    void backward(CoreAttention& core, const ModelInput& input, Write write, const LayerCallback& on_ready,
                  const Exec& exec) {
        backward(core, {&input, 1}, write, BackwardPart::kAll, on_ready, exec);
    }
    // The sum of squares of gradients(), in fp64, if nobody has changed them since backward(): of what its products
    // have left, where they did, so that large gradients need not be read again. Bits do not depend on threads, and not
    // on what was there before.
    double sum_of_gradient_squares(const Exec& exec) const;
    // Whether products leave such sums.
    bool sums_squares() const { return squares_.has_value(); }
    // (n, C) in the stream's dtype: what enters the stage, what leaves it, and the gradient of either.
    Tensor stream_in(int64_t n, int set) const { return stream_after(stage_.first_layer - 1, n, set); }
    Tensor stream_out(int64_t n, int set) const { return first_rows(activations(set)[last_x_slot_], n); }
    Tensor stream_gradient(int64_t n, int set) const;

    // After forward() or evaluate() of `input`, for probes and evaluation: a block with all its activations, until the
    // next is asked for.
    Block block(CoreAttention& core, const ModelInput& input, int64_t layer, const Exec& exec);
    // Takes over what `from`, a model of the same shape on any device, computed in forward() or evaluate() of `input`.
    // This one must keep all activations (Recompute::kNone).
    void copy_activations(Transformer& from, CoreAttention& core, const ModelInput& input, const Exec& exec);
    // (n, C) the stream after block `layer`; layer = -1 is the embedding's output.
    Tensor stream_after(int64_t layer, int64_t n, int set = 0) const;
    Tensor nll(int64_t n) const { return head(n, 0).nll; }  // (n)
    Tensor logits(int64_t n, const Exec& exec) const { return head_->logits(head(n, 0), exec); }

  private:
    const LayerParts& parts_of(int64_t layer) const { return parts_[static_cast<size_t>(layer - stage_.first_layer)]; }
    const Arena& activations(int set) const { return activations_[static_cast<size_t>(set)]; }
    const Arena& scratch(int set) const { return scratch_[static_cast<size_t>(set % options_.lanes)]; }
    AttentionCall call(const Block& block, const ModelInput& input, int64_t layer) const;
    AttentionCall backward_call(const Block& block, const ModelInput& input, int64_t layer, Write write) const;
    void check_inputs(ModelInputs inputs) const;
    LmHeadTensors head(int64_t n, int set) const;
    Block block(int64_t layer, int64_t n, int set);
    void head_training_forward(const ModelInput& input, Write write, const Exec& exec);
    void head_backward(const ModelInput& input, Write write, const Exec& exec);
    // Where the gradient of the stream that leaves `layer` goes in the dtype of matmul operands while it is written;
    // empty where that is of no use.
    Tensor gradient_for(int64_t layer, const ModelInput& input);
    // The gradient of loss.bos_decorrelation through the streams that enter `layer`.
    void decorrelate(int64_t layer, ModelInputs inputs, const Exec& exec);
    void embedding_gradients(const ModelInput& input, Tensor dx, Write write, const Exec& exec);
    // forward_pre, core attention and forward_hidden of a block.
    void forward_hidden(int64_t layer, CoreAttention& core, const ModelInput& input, const Exec& exec);
    void blocks_forward(CoreAttention& core, ModelInputs inputs, const LayerCallback& before_layer, const Exec& exec);
    void block_backward(int64_t layer, CoreAttention& core, ModelInputs inputs, Write write, BackwardPart part,
                        const Exec& exec);

    NetworkConfig config_;
    StageRange stage_;
    int64_t N_;
    Precision precision_;
    ActivationOptions options_;
    ParameterTable table_;
    ModelPlan plan_;
    std::optional<GradientSquares> squares_;
    ArenaSlot parameter_slot_, working_slot_, gradient_slot_, loss_slot_, decorrelation_slot_, squares_slot_,
        last_x_slot_, dx_slot_, vectors_slot_;
    ActivationPlan block_plan_;
    BlockScratchPlan scratch_plan_;
    std::vector<LayerParts> parts_;  // per block of the stage
    std::optional<LmHead> head_;
    bool has_vectors_ = false;
    Arena parameters_, gradients_, head_scratch_;
    std::vector<Arena> activations_, scratch_;                      // [set], [lane]
    std::vector<BlockTensors> block_parameters_, block_gradients_;  // per block of the stage
};

}  // namespace plimsoll
