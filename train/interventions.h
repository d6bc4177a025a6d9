// Interventions on a trained model while it is evaluated: what a head, an attention or a feed-forward layer is for.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/transformer.h"

namespace plimsoll {

enum class InterventionKind : uint8_t {
    // All that the head gives to the output projection is zero: its columns of W_O. So nothing is left of a key
    // column's value, a V bias or a gate that is added. With differential attention a head is a score map, and its
    // output y = 0 before the difference is taken.
    kZero,
    // Its weights are the identity: every token attends to itself alone, with weight 1; a column has none.
    kIdentity,
    // The weight on a document's first token (the placeholder where there is one) is scaled by gamma = value >= 0 and
    // the row is normalised again, where the weighting normalises:
    //   A'_i0 = gamma A_i0 / D,  A'_ij = A_ij / D,  D = 1 + (gamma - 1) A_i0       ZeroTuning, arXiv:2505.11739
    // An extra column is a key like the others. So is a learned one behind core attention (K bias, KV bias):
    //   A_ij = exp(s_ij) / Z_i,  w_i = exp(e_i) / Z_i,  Z_i = exp(e_i) + sum_j exp(s_ij);
    //   w'_i = w_i / D,  y'_i = sum_j A'_ij v_j + w'_i v*,
    // which is lse'_i = log(sum_j exp(s_ij) + (gamma - 1) exp(s_i0)) for what computes the column.
    // A row whose sum R_i is not 1 keeps it (A_i0 / R_i in D). Without normalisation D = 1. A row that is left without
    // any weight (gamma = 0, nothing else to see) gives zero.
    kFirst,
    kZeroAttention,  // of a whole layer, with the output projection's bias
    kZeroMlp,        // of a whole layer, with the last bias
    kZeroBlock,      // both
};

struct Intervention {
    InterventionKind kind = InterventionKind::kZero;
    int64_t layer = -1;  // -1 = every layer
    int64_t head = -1;   // query head, -1 = every head; of kZero, kIdentity and kFirst
    double value = 1;    // of kFirst

    bool of_heads() const { return kind <= InterventionKind::kFirst; }
    bool operator==(const Intervention&) const = default;
};
// Made together. Of several on one head the last is made.
using Interventions = std::vector<Intervention>;

// "layer=1,head=0,kind=zero", keys in any order; several are joined by "+". Kinds: zero, identity, first (with
// value=GAMMA), zero_attention, zero_mlp, zero_block (of whole layers: no head). Without a layer, or a head: all of
// them. Throws Error (78) for anything else, and for what the model does not have.
Interventions parse_interventions(std::string_view text, const ModelConfig& model);
// The same as a text that gives it again.
std::string to_string(const Interventions& interventions);

// What a model without instructions is asked: every layer's attention, feed-forward layer and both away, every layer's
// attention as the identity, every head away, and the first token scaled by some gammas in all heads.
std::vector<Interventions> intervention_battery(const ModelConfig& model);

// Core attention with interventions on heads. Gates of a head act on what the intervention leaves. Weights are computed
// by the definition, in double; what changes is added to the output of `core`, so that gamma = 1 changes no bit.
// Host memory; forward only.
class IntervenedAttention final : public CoreAttention {
  public:
    // `core` must outlive this. What is behind core attention, and interventions on whole layers, are left to
    // WithoutBranches.
    IntervenedAttention(CoreAttention& core, Interventions interventions)
        : core_(core), interventions_(std::move(interventions)) {}

    void begin_forward(const AttentionCall& call, const Exec& exec) override { core_.begin_forward(call, exec); }
    void compute_forward(const AttentionCall& call, const Exec& exec) override { core_.compute_forward(call, exec); }
    void end_forward(const AttentionCall& call, const Exec& exec) override;
    void compute_backward(const AttentionCall& call, const Exec& exec) override;

  private:
    CoreAttention& core_;
    Interventions interventions_;
};

// While it lives, the last projections (and their biases) of the branches that are to be zero, and the columns of heads
// that are, are zero in the model's parameters, in host memory. Afterwards they are what they were, to the bit.
class WithoutBranches {
  public:
    WithoutBranches(Transformer& model, const Interventions& interventions);
    ~WithoutBranches();
    WithoutBranches(const WithoutBranches&) = delete;

  private:
    struct Saved {
        Tensor where;
        std::vector<std::byte> bytes;
    };
    std::vector<Saved> saved_;
};

}  // namespace plimsoll
