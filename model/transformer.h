// The network, or the part of it that one pipeline stage holds.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "model/block.h"
#include "model/lm_head.h"

namespace plimsoll {

// One micro batch as the network reads it: n flat tokens.
struct ModelInput {
    std::span<const int32_t> tokens;      // (n) ids
    std::span<const int32_t> targets;     // (n) ids, -1 = not scored
    std::span<const int32_t> positions;   // (n)
    std::span<const int32_t> cu_seqlens;  // where documents start, then n
};

// What a Transformer will allocate, known before it does.
struct ModelPlan {
    ArenaPlan parameters{"parameters"}, gradients{"gradients"}, activations{"activations"}, scratch{"scratch"};
};

class Transformer {
  public:
    // Plans for micro batches of up to N tokens, and allocates nothing. Throws Error (78) for an impossible
    // configuration.
    Transformer(const NetworkConfig& config, StageRange stage, int64_t N, Precision precision,
                Recompute recompute = Recompute::kNone);
    // Allocates the arenas. Parameters are zero until initialize() or a checkpoint fills them.
    void allocate(Device device = Device::kCpu);

    const NetworkConfig& config() const { return config_; }
    const ParameterTable& table() const { return table_; }
    const ModelPlan& plan() const { return plan_; }
    Precision precision() const { return precision_; }
    // Flat buffers, laid out by table(): masters and gradients in the stream's dtype; `working` is the copy of the
    // parameters that matmuls read, empty if they read the masters.
    Tensor parameters() const { return parameters_[parameter_slot_]; }
    Tensor working() const { return parameters_[working_slot_]; }
    Tensor gradients() const { return gradients_[gradient_slot_]; }
    // Rounds the masters to the working copy: after initialize() or a load; optimizers keep it up to date.
    void refresh_working(const Exec& exec);

    // A micro batch forward; its loss is written to the sums that loss() returns, or added to them. Needs a whole
    // network (embedding and head). Does not wait for the device.
    void forward(CoreAttention& core, const ModelInput& input, Write write, const Exec& exec);
    // Sums of the loss over the micro batches since one was written. Waits for the device.
    LossSums loss(const Exec& exec) const { return head_.loss(head(1), exec); }
    // The loss of one micro batch with logits rounded to fp32, for evaluation; backward() may not follow.
    LossSums evaluate(CoreAttention& core, const ModelInput& input, const Exec& exec);
    // Gradients of the sum (not mean) of losses of the last forward(), written or added. `on_ready(layer)` is called
    // when the gradients of a block (or of what comes before, -1, and after, L) are complete in this micro batch.
    void backward(CoreAttention& core, const ModelInput& input, Write write,
                  const std::function<void(int64_t)>& on_ready, const Exec& exec);

    // After forward() or evaluate() of `input`, for probes and evaluation: a block with all its activations, until the
    // next is asked for.
    Block block(CoreAttention& core, const ModelInput& input, int64_t layer, const Exec& exec);
    // Takes over what `from`, a model of the same shape on any device, computed in forward() or evaluate() of `input`.
    // This one must keep all activations (Recompute::kNone).
    void copy_activations(Transformer& from, CoreAttention& core, const ModelInput& input, const Exec& exec);
    // (n, C) the stream after block `layer`; layer = -1 is the embedding's output.
    Tensor stream_after(int64_t layer, int64_t n) const;
    Tensor nll(int64_t n) const { return head(n).nll; }  // (n)
    Tensor logits(int64_t n, const Exec& exec) const { return head_.logits(head(n), exec); }

  private:
    LmHeadTensors head(int64_t n) const;
    Block block(int64_t layer, int64_t n);
    // forward_pre, core attention and forward_hidden of a block.
    void forward_hidden(Block& block, CoreAttention& core, const ModelInput& input, const Exec& exec);
    void forward(CoreAttention& core, const ModelInput& input, DType logits_dtype, Write write, const Exec& exec);

    NetworkConfig config_;
    StageRange stage_;
    int64_t N_;
    Precision precision_;
    Recompute recompute_;
    ParameterTable table_;
    ModelPlan plan_;
    ArenaSlot parameter_slot_, working_slot_, gradient_slot_, loss_slot_, last_x_slot_, dx_slot_;
    ActivationPlan block_plan_;
    BlockScratchPlan scratch_plan_;
    LmHead head_;
    Arena parameters_, gradients_, activations_, scratch_;
    std::vector<BlockTensors> block_parameters_, block_gradients_;  // per block of the stage
};

}  // namespace plimsoll
