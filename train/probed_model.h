// What the probes look at: the model's activations, in host memory.
#pragma once

#include <memory>

#include "model/transformer.h"

namespace plimsoll {

// On the CPU the trained model itself. On a GPU the forward runs there, and a model of the same shape on the host gets
// its parameters and activations.
class ProbedModel {
  public:
    // `trained` must outlive this. `tokens`: the most in one forward. Allocates nothing yet.
    ProbedModel(Transformer& trained, int64_t tokens, const Exec& exec);

    // Takes over the parameters as they are now.
    void refresh();
    // Evaluates `input` (host memory). Returns the model whose activations can be read, until the next call.
    Transformer& forward(CoreAttention& core, const ModelInput& input);

  private:
    Transformer& trained_;
    int64_t tokens_;
    Exec exec_;
    std::unique_ptr<Transformer> mirror_;  // of a model on a GPU
};

}  // namespace plimsoll
