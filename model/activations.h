// What a block keeps from forward to backward, and the scratch that all blocks share.
#pragma once

#include "kernels/arena.h"
#include "model/config.h"

namespace plimsoll {

// The dtypes of a run. The residual stream, its gradient, norm statistics and parameter gradients are in stream();
// matmul operands and other activations in `compute`.
struct Precision {
    DType compute = DType::kF32;
    DType stream() const { return accumulator_of(compute); }
};

// Saved by one block. N tokens; an absent tensor is empty.
struct BlockActivations {
    Tensor x;               // (N, C) stream: the residual entering the block
    Tensor norm1;           // (N, C)
    Tensor mean1, rstd1;    // (N)
    Tensor qkv;             // (N, NH + 2 NKV, HS): rotated in place unless qk_norm
    Tensor qk_normed;       // (N, NH + NKV, HS) with qk_norm: normalised, then rotated
    Tensor q_rstd, k_rstd;  // (N, NH), (N, NKV) with qk_norm
    Tensor gate;            // z, (N, NH) or (N, NH, HS)
    Tensor y;               // (N, NH, HS) core attention's output, before the gate
    Tensor lse;             // (NH, N), for weightings that normalise
    Tensor x_mid;           // (N, C) stream: after attention; absent without feed-forward layer
    Tensor norm2;           // (N, C)
    Tensor mean2, rstd2;    // (N)
    Tensor up;              // (N, F) or (N, 2F): before the activation; backward replaces it by its gradient
    Tensor act;             // (N, F)
};

// One set for all blocks, overwritten by each.
struct BlockScratch {
    Tensor branch;  // (N, C) what a branch adds to the stream; in backward its gradient, if compute is not the stream's
    Tensor gated;   // (N, NH, HS) y after the gate
    Tensor dnorm;   // (N, C)
    Tensor dact;    // (N, F)
    Tensor dy;      // (N, NH, HS)
    Tensor dgate;   // like gate
    Tensor dqkv;    // like qkv
};

// Plans the tensors of BlockActivations for up to N tokens, and yields views of n <= N tokens.
class BlockActivationPlan {
  public:
    BlockActivationPlan(ArenaPlan& plan, const NetworkConfig& config, int64_t layer, int64_t N, Precision precision);
    BlockActivations view(const Arena& arena, int64_t n) const;

  private:
    ArenaSlot x_, norm1_, mean1_, rstd1_, qkv_, qk_normed_, q_rstd_, k_rstd_, gate_, y_, lse_, x_mid_, norm2_, mean2_,
        rstd2_, up_, act_;
};

class BlockScratchPlan {
  public:
    BlockScratchPlan(ArenaPlan& plan, const NetworkConfig& config, int64_t N, Precision precision);
    // Views for a block; the shapes of gate and dgate are the layer's.
    BlockScratch view(const Arena& arena, const NetworkConfig& config, int64_t layer, int64_t n) const;

  private:
    ArenaSlot branch_, gated_, dnorm_, dact_, dy_, dgate_, dqkv_;
};

// The first n of N tokens of a planned tensor: of (N, ...), or of (NH, N), which becomes a dense (NH, n).
Tensor first_rows(Tensor tensor, int64_t n);
Tensor first_columns(Tensor tensor, int64_t n);

}  // namespace plimsoll
