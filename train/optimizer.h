// The optimizer of a run: which rule updates which parameter, and its state.
#pragma once

#include "dist/shard_layout.h"
#include "kernels/arena.h"
#include "model/transformer.h"
#include "train/config.h"

namespace plimsoll {

class Optimizer {
  public:
    // Plans the state (AdamW: first and second moment, SGD: momentum) of the elements it updates, and allocates
    // nothing. `owned`: which of the flat buffer's, ascending. `seed`: of stochastic rounding.
    Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision,
              std::vector<ElementRange> owned, uint64_t seed = 0);
    void allocate(Device device = Device::kCpu);
    const ArenaPlan& plan() const { return plan_; }

    // One update of what it owns of `model`. `step` counts from 1; gradients are multiplied by `gradient_scale`
    // first.
    void step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec);

    // The state's flat buffers by name ("m", "v", or "momentum"): the owned ranges one after the other.
    std::vector<std::pair<std::string, Tensor>> state() const;
    const std::vector<ElementRange>& owned() const { return owned_; }

  private:
    double weight_decay(const Parameter& parameter) const;
    // Updates [range) of the flat buffers, whose state begins at element `state`.
    void step(Transformer& model, ElementRange range, int64_t state, double decay, double lr, double gradient_scale,
              int64_t step, const Exec& exec);

    OptimizerSection config_;
    const ParameterTable& table_;
    std::vector<ElementRange> owned_;
    uint64_t seed_;
    ArenaPlan plan_{"optimizer state"};
    ArenaSlot first_, second_;
    Arena arena_;
};

}  // namespace plimsoll
