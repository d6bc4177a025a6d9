// What a block keeps from forward to backward, and the scratch that all blocks share.
#pragma once

#include <functional>

#include "kernels/arena.h"
#include "model/layer_parts.h"
#include "model/qk_source.h"

namespace plimsoll {

// Saved by one block. N tokens; an absent tensor is empty.
struct BlockActivations {
    Tensor x;               // (N, C) stream: the residual entering the block
    Tensor norm1;           // (N, C)
    Tensor mean1, rstd1;    // (N)
    Tensor qk_source;       // (N, C) what queries and keys are mapped from, if not norm1; several layers' own
    Tensor qkv;             // (N, NH + 2 NKV, HS): rotated in place unless qk_norm
    Tensor qk_normed;       // (N, NH + NKV, HS) with qk_norm: normalised, then rotated
    Tensor q_rstd, k_rstd;  // (N, NH), (N, NKV) with qk_norm
    Tensor y;               // (N, NH, HS) core attention's output
    Tensor lse;             // (NH, N), for weightings that normalise
    Tensor x_mid;           // (N, C) stream: after attention; absent without feed-forward layer
    Tensor norm2;           // (N, C)
    Tensor mean2, rstd2;    // (N)
    // (N, F) or (N, 2F): before the activation; backward may replace it by its gradient. It is act's memory where
    // slope_follows_from_output().
    Tensor up;
    Tensor act;         // (N, F)
    PartTensors parts;  // what the layer's parts keep
};

// One set for all blocks, overwritten by each.
struct BlockScratch {
    Tensor branch;  // (N, C) what a branch adds to the stream; in backward its gradient, if compute is not the stream's
    Tensor dnorm;   // (N, C)
    Tensor dact;    // (N, F)
    Tensor dy;      // (N, NH, HS)
    Tensor dqkv;    // like qkv
    // (N, C) stream: the gradient of embeddings as a source of queries and keys, summed over the blocks; only in blocks
    // that have it.
    Tensor dembedding;
    // With BackwardSplit::kYes, for every block its own, as dact and dqkv then are: gradients of the branches of
    // attention and feed-forward layer, which their weights' gradients are computed from later.
    Tensor dout, ddown;  // (N, C)
    PartTensors part_operands, part_scratch;
};

// Whether gradients of weights can be computed at another time than those of inputs (zero-bubble pipelines).
enum class BackwardSplit : uint8_t { kNo, kYes };

// What is computed again in backward instead of kept from forward. The same ops on the same inputs: the bits of a run
// do not depend on it.
enum class Recompute : uint8_t {
    kNone,   // everything is kept
    kLight,  // the norms' and the activation's outputs: memory-bound ops, about 3C + F (3C with ReLU) of every token's
             // values
    kBlock,  // everything but the stream that enters a block: another forward
};

// Throws Error (78) for an unknown name; "none", "light" or "block".
Recompute recompute_of(const std::string& name);

// Plans the activations of a stage's blocks for up to N tokens: what is kept in one arena per block, what is computed
// again in another, once for all blocks.
class ActivationPlan {
  public:
    ActivationPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage, int64_t N,
                   Precision precision, Recompute recompute);
    // Views for n <= N tokens of one block.
    BlockActivations view(const Arena& kept, const Arena& shared, const NetworkConfig& config, int64_t layer,
                          int64_t n) const;
    const QkSources& qk_sources() const { return qk_sources_; }
    // Calls f(tensor of a, tensor of b) for every tensor that this layer has.
    void for_each_pair(const NetworkConfig& config, int64_t layer, const BlockActivations& a, const BlockActivations& b,
                       const std::function<void(Tensor, Tensor)>& f) const;

  private:
    Precision precision_;
    int64_t first_layer_;
    std::vector<std::vector<ArenaSlot>> kept_;  // [block][tensor], invalid where shared
    std::vector<ArenaSlot> shared_;             // [tensor]
    std::vector<PlannedPartTensors> parts_;     // [block]
    bool parts_in_shared_ = false;
    QkSources qk_sources_;
};

// Plans the scratch of a stage's blocks: in `shared` once, and what a split backward keeps in `kept` for each block.
class BlockScratchPlan {
  public:
    BlockScratchPlan(ArenaPlan& kept, ArenaPlan& shared, const NetworkConfig& config, StageRange stage, int64_t N,
                     Precision precision, BackwardSplit split);
    // Views for a block.
    BlockScratch view(const Arena& kept, const Arena& shared, int64_t layer, int64_t n) const;
    // BlockScratch::dembedding; empty if no block has it.
    Tensor dembedding(const Arena& shared, int64_t n) const { return first_rows(shared[dembedding_], n); }

  private:
    // What gradients of weights are computed from.
    struct Operands {
        ArenaSlot dact, dqkv, dout, ddown;
    };
    Operands add_operands(ArenaPlan& plan, const std::string& prefix, const NetworkConfig& config, int64_t N,
                          DType compute) const;

    int64_t first_layer_;
    ArenaSlot branch_, dnorm_, dy_, dembedding_;
    std::vector<bool> reads_embedding_;  // [block]
    Operands shared_;
    std::vector<Operands> kept_;                                    // [block] of a split backward
    std::vector<PlannedPartTensors> part_operands_, part_scratch_;  // [block]
};

}  // namespace plimsoll
