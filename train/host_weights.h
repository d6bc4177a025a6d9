// A trained model's parameters in the precision that a decoder computes in.
#pragma once

#include "kernels/memory.h"
#include "model/decoder.h"
#include "train/trained_model.h"

namespace plimsoll {

class HostWeights {
  public:
    // Those of the model itself where they have the precision's dtype, else rounded or widened copies. `model` must
    // outlive this.
    HostWeights(const TrainedModel& model, Precision precision, const Exec& exec);

    NetworkWeights weights() const { return {table_, parameters_, working_, precision_}; }

  private:
    const ParameterTable& table_;
    Precision precision_;
    Memory memory_, working_memory_;
    Tensor parameters_, working_;
};

}  // namespace plimsoll
