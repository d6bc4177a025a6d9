// The optimizer of a run: which rule updates which parameter, and its state.
#pragma once

#include "dist/shard_layout.h"
#include "kernels/arena.h"
#include "kernels/muon.h"
#include "kernels/orthoadam.h"
#include "kernels/update_table.h"
#include "model/transformer.h"
#include "train/config.h"

namespace plimsoll {

// Rules by optimizer.kind: adamw and sgd update every parameter element by element. muon updates each matrix that a
// linear weight of a block stacks (queries, keys and values; SwiGLU's gate and values), and AdamW everything else.
// orthoadam rotates those matrices on both sides, embeddings, head and gates on the side of their inputs alone (a
// token's row stays its own), and updates vectors by AdamW. Its bases follow from the seed and the parameter's name, so
// they are in no checkpoint.
class Optimizer {
  public:
    // Plans the state of the elements it updates and the scratch memory of their rules, and allocates nothing. `owned`:
    // which elements of the flat buffer, ascending, cut at units only. `seed`: of stochastic rounding and of
    // OrthoAdam's bases.
    Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision,
              std::vector<ElementRange> owned, uint64_t seed = 0);
    void allocate(Device device = Device::kCpu);
    const ArenaPlan& plan() const { return plan_; }

    // Elements of a parameter that must be updated by one rank, counted from its first: 1 for rules that work element
    // by element.
    static int64_t unit(const OptimizerSection& config, const Parameter& parameter);

    // One update of what it owns of `model`. `step` counts from 1; gradients are multiplied by `gradient_scale`
    // first.
    void step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec);
    // Its two halves. What differs between steps goes to exec's device, in the order of its stream; then the ops that
    // read it there, the same with the same arguments each time: they can be recorded (kernels/replay.h).
    void begin_step(double lr, double gradient_scale, int64_t step, const Exec& exec);
    void update(Transformer& model, const Exec& exec);

    // A flat buffer of the state: ranges of the parameters' flat buffer, one after the other. AdamW has "m" and "v",
    // SGD and Muon "momentum", OrthoAdam "rotated_m" and "rotated_v".
    struct State {
        std::string name;
        Tensor buffer;
        std::vector<ElementRange> ranges;
    };
    std::vector<State> state() const;
    const std::vector<ElementRange>& owned() const { return owned_; }

  private:
    enum class Rule : uint8_t { kAdamW, kSgd, kMuon, kOrthoAdam };
    // What one rule keeps of its elements.
    struct Family {
        Rule rule;
        std::vector<ElementRange> ranges = {};
        ArenaSlot first = {}, second = {};  // first moment or momentum, second moment
        size_t update = 0, updates = 0;     // the first of its updates, and how many
    };
    // A span of the table: neighbours in the flat buffer that share everything, or one matrix.
    struct Update {
        size_t family;
        ElementRange range;
        int64_t state;  // where the range begins in the family's buffers
        double lr_scale, weight_decay;
        Shape matrix = {};  // (rows, columns), of rules for matrices
        MatrixBasis basis = {};
    };

    static Rule rule_of(const OptimizerSection& config, const Parameter& parameter);
    double weight_decay(const Parameter& parameter) const;
    void add_family(Rule rule);
    void add_matrices(const Update& update, const Parameter& parameter);
    void plan_state(Precision precision);
    UpdateFactors factors(const Update& update, double lr, double gradient_scale, int64_t step) const;
    void update_matrix(Transformer& model, size_t index, const Exec& exec);

    OptimizerSection config_;
    const ParameterTable& table_;
    std::vector<ElementRange> owned_;
    uint64_t seed_;
    std::vector<Family> families_;  // those that own something
    std::vector<Update> updates_;
    UpdateTable updates_table_;
    ArenaPlan plan_{"optimizer state"};
    ArenaSlot on_device_;                         // the table
    ArenaSlot direction_, next_, gram_, square_;  // scratch memory of rules for matrices
    Arena arena_;
};

}  // namespace plimsoll
