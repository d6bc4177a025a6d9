#include "train/training_samples.h"

#include <algorithm>

#include "kernels/memory.h"

namespace plimsoll {

TrainingSamples::TrainingSamples(const RunConfig& config, const NetworkConfig& network, const Tokenizer* tokenizer)
    : network_(network),
      tokenizer_(tokenizer),
      options_{
          .max_tokens = config.train.sample_tokens, .sampling = {}, .seed = static_cast<uint64_t>(config.run.seed)} {
    if (!tokenizer)
        fail_input("train.sample_every is {}, but the data have no tokenizer, so there is no text to write",
                   config.train.sample_every);
    try {
        prompt_ = prompt_ids(network, *tokenizer, config.train.sample_prompt);
    } catch (const Error& error) {
        fail_input("train.sample_prompt '{}': {}", brief(config.train.sample_prompt), error.what());
    }
    if (static_cast<int64_t>(prompt_.size()) >= network.model.context)
        fail_input("train.sample_prompt has {} tokens, must have fewer than model.context = {}", prompt_.size(),
                   network.model.context);
    check_prompt("train.sample_prompt", prompt_.size(), network);
}

std::string TrainingSamples::write(const Transformer& whole, const Exec& exec) const {
    NetworkWeights weights{whole.table(), whole.parameters(), whole.working(), whole.precision()};
    Memory memory;
    if (exec.device != Device::kCpu) {
        memory = allocate_memory(Device::kCpu, weights.parameters.bytes(), "parameters of a sample");
        const Tensor host(memory.get(), weights.parameters.dtype, weights.parameters.shape);
        copy_tensor(host, weights.parameters, exec);
        weights.parameters = host, weights.working = {}, weights.precision = {DType::kF32};
    }
    const auto length = static_cast<int64_t>(prompt_.size());
    Decoder decoder(network_, weights,
                    {.cache = {.tokens = std::min(network_.model.context, length + options_.max_tokens)},
                     .chunk = std::min<int64_t>(64, length)},
                    {.threads = exec.threads});
    const Generated result = generate(decoder, prompt_, std::min(network_.vocab, tokenizer_->vocab_size()),
                                      tokenizer_->eot_token(), options_, [](int32_t) { return true; });
    return tokenizer_->decode(result.ids);
}

}  // namespace plimsoll
