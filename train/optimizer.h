// The optimizer of a run: which rule updates which parameter, and its state.
#pragma once

#include "kernels/arena.h"
#include "model/transformer.h"
#include "train/config.h"

namespace plimsoll {

class Optimizer {
  public:
    // Plans the state (AdamW: first and second moment, SGD: momentum) and allocates nothing. `seed`: of stochastic
    // rounding.
    Optimizer(const OptimizerSection& config, const ParameterTable& table, Precision precision, uint64_t seed = 0);
    void allocate(Device device = Device::kCpu);
    const ArenaPlan& plan() const { return plan_; }

    // One update of every parameter of `model`. `step` counts from 1; gradients are multiplied by `gradient_scale`
    // first.
    void step(Transformer& model, double lr, double gradient_scale, int64_t step, const Exec& exec);

    // The state's flat buffers by name ("m", "v", or "momentum"), laid out like the parameters.
    std::vector<std::pair<std::string, Tensor>> state() const;

  private:
    double weight_decay(const Parameter& parameter) const;

    OptimizerSection config_;
    const ParameterTable& table_;
    uint64_t seed_;
    ArenaPlan plan_{"optimizer state"};
    ArenaSlot first_, second_;
    Arena arena_;
};

// sqrt of the sum of squares of all gradients.
double gradient_norm(const Transformer& model, const Exec& exec);

}  // namespace plimsoll
