// One transformer block in four pieces around core attention: forward_pre, [core], forward_post, and the same
// backwards.
//
//   x_mid = x + out(gate(core(qkv(norm1(x)))));  x_out = x_mid + down(activation(up(norm2(x_mid))))
#pragma once

#include "kernels/core_attention.h"
#include "kernels/feed_forward.h"
#include "model/activations.h"
#include "model/parameters.h"
#include "model/qkv_map.h"

namespace plimsoll {

// Views of a block's parameters, or of their gradients. Matrices have the dtype of matmul operands, vectors the
// stream's.
struct BlockTensors {
    Tensor norm1_gain, norm1_bias, qkv, qkv_bias, q_norm_gain, k_norm_gain, sink_logit, score_bias, out, out_bias;
    Tensor norm2_gain, norm2_bias, up, up_bias, down, down_bias;
    PartTensors parts;
    // Of gradients, where they are wanted: sums of squares of those of matrices, as their products leave them.
    Tensor qkv_squares, out_squares, up_squares, down_squares;
};

// `matrices` and `vectors` are flat buffers laid out by the table.
BlockTensors block_tensors(const ParameterTable& table, const LayerParts& parts, int64_t layer, Tensor matrices,
                           Tensor vectors);

// Whether forward_pre rotates queries and keys by RoPE, or whoever keeps the keys does later.
enum class RopeTiming : uint8_t { kNow, kLater };

// Whether what wrote the stream's gradient has left it in branch_gradient() too.
enum class BranchGradient : uint8_t { kToMake, kReady };

// A block bound to its memory for one micro batch.
class Block {
  public:
    // `config` and `parts`, those of the layer, must live as long.
    Block(const NetworkConfig& config, const LayerParts& parts, int64_t layer, const BlockTensors& parameters,
          const BlockTensors& gradients, const BlockActivations& activations, const BlockScratch& scratch)
        : model_(config.model),
          parts_(parts),
          spec_(config.attention.spec(layer, config.model)),
          map_(config),
          p_(parameters),
          d_(gradients),
          a_(activations),
          s_(scratch) {}

    // norm1, queries, keys and values, QK-norm, RoPE, and what parts make of them. Reads activations.x.
    void forward_pre(std::span<const int32_t> positions, const Exec& exec, RopeTiming rope = RopeTiming::kNow);
    // Output projection, residual, feed-forward layer; writes the stream that leaves the block.
    void forward_post(Tensor x_out, const Exec& exec);

    // The parts of forward that backward runs again where their outputs were not kept (Recompute): for kLight norm1
    // before backward_pre, restore_hidden (norm2 and the activation) before backward_post; for kBlock forward_pre, core
    // attention and forward_hidden, which is forward_post without what nobody keeps: its last product and residual; in
    // a block without feed-forward layer the output projection too, if no part keeps something behind core attention.
    void norm1(const Exec& exec);
    void restore_hidden(const Exec& exec);
    void forward_hidden(const Exec& exec);

    // Gradients of forward_post's parameters; dx holds the gradient of x_out and becomes that of x through all paths
    // but core attention; the gradient of core attention's output lands in core_gradients().out.
    void backward_post(Tensor dx, Write write, BackwardPart part, const Exec& exec,
                       BranchGradient branch = BranchGradient::kToMake);
    // From core_gradients().q, k, v: gradients of forward_pre's parameters; adds to dx. `dbranch`, if not empty, gets
    // dx too: the branch_gradient() of the block before, if nobody changes dx until it is read.
    void backward_pre(Tensor dx, std::span<const int32_t> positions, Write write, BackwardPart part, const Exec& exec,
                      Tensor dbranch = {});
    // What backward_post makes of dx first: the gradient of the branch that was added last, in the dtype of matmul
    // operands. Empty where that is the stream's.
    Tensor branch_gradient() const;

    // What lies between: the operands of core attention and their gradients.
    AttentionTensors core_tensors() const;
    AttentionTensors core_gradients() const;
    const AttentionSpec& spec() const { return spec_; }
    const BlockActivations& activations() const { return a_; }
    // The gate on core attention's output; empty without one.
    OutputGate output_gate() const;
    // Logits (N, NH) of a virtual column that a part adds behind core attention; empty without one.
    Tensor column_scores() const;

  private:
    // Where the stream's gradient goes as the gradient of a branch: `kept` if that is planned. Empty where it is read
    // as it is.
    Tensor operand(Tensor kept) const;
    PartView part(size_t i, std::span<const int32_t> positions = {}) const {
        PartView view = parts_.view(i, p_.parts, d_.parts, a_.parts, s_.part_operands, s_.part_scratch);
        view.positions = positions;
        return view;
    }
    // The block's second half: `branch` is attention's; both empty in backward.
    FeedForwardTensors feed_forward(Tensor branch, Tensor x_out) const;
    // What RoPE rotates, as the first `parts` of the parts leave it.
    Tensor unrotated(size_t parts) const;
    // What core attention reads, as the first `parts` of the parts leave it.
    AttentionTensors operands(size_t parts) const;
    // Their gradients, as the first `parts` of the parts bind them.
    AttentionTensors gradients(size_t parts) const;
    // What the parts before `end` have made of core attention's output for the output projection, in backward.
    Tensor attended(size_t end, const Exec& exec) const;
    // What parts change in place of core attention's outputs.
    void forward_outputs(const Exec& exec) const;
    // The attention branch made of them: the output projection and the parts around it.
    Tensor attention_branch(const Exec& exec) const;

    const ModelConfig& model_;
    const LayerParts& parts_;
    AttentionSpec spec_;
    QkvMap map_;
    BlockTensors p_, d_;
    BlockActivations a_;
    BlockScratch s_;
};

}  // namespace plimsoll
