// Text that a model writes while it is trained.
#pragma once

#include "model/transformer.h"
#include "train/config.h"
#include "train/generate.h"

namespace plimsoll {

class TrainingSamples {
  public:
    // train.sample_prompt in the data's vocabulary. Throws Error (78) naming the key where there is none: data without
    // a tokenizer, a prompt with other characters, an empty one that nothing can begin, or one as long as the context.
    TrainingSamples(const RunConfig& config, const NetworkConfig& network, const Tokenizer* tokenizer);

    // What follows the prompt, by the parameters as they are; the same numbers are drawn every time. Reads `whole`, and
    // computes on the CPU in memory of its own: nothing of the run changes. A model on a GPU is copied, and computed
    // with in fp32.
    std::string write(const Transformer& whole, const Exec& exec) const;

  private:
    const NetworkConfig& network_;
    const Tokenizer* tokenizer_;
    std::vector<int32_t> prompt_;
    GenerateOptions options_;
};

}  // namespace plimsoll
