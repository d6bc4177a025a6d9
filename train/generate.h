// Text from a trained model.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "model/decoder.h"
#include "train/sampler.h"

namespace plimsoll {

struct GenerateOptions {
    int64_t max_tokens = 256;
    SamplingOptions sampling;
    uint64_t seed = 42;
};

enum class StopReason { kMaxTokens, kEndOfText, kCacheFull, kAsked };

struct Generated {
    std::vector<int32_t> ids;  // without the end of text
    StopReason reason = StopReason::kMaxTokens;
    double prompt_seconds = 0, seconds = 0;
};

// What stands before a document's text: the placeholders, and the tokenizer's end of text, which begins every document
// that the model was trained on.
std::vector<int32_t> prompt_beginning(const NetworkConfig& network, const Tokenizer& tokenizer);
// That and the text. Throws Error (78) for characters outside the vocabulary, and if there is nothing to begin with: no
// text and no end of text.
std::vector<int32_t> prompt_ids(const NetworkConfig& network, const Tokenizer& tokenizer, std::string_view text);

// Appends `prompt` to the decoder's sequence, then draws tokens below `ids` until `max_tokens`, the id `eot` (-1: none)
// or the end of its room. Token n is drawn by number n of the seed's stream: equal seeds give equal tokens. `on_token`
// is told of each; it returns whether to go on.
Generated generate(Decoder& decoder, std::span<const int32_t> prompt, int64_t ids, int32_t eot,
                   const GenerateOptions& options, const std::function<bool(int32_t)>& on_token);

// Throws Error (78) for a prompt shorter than the prefix of a prefix-LM: its first token sees the prefix's last, so
// nothing can be computed before that is there, and what follows within the prefix was never a target.
void check_prompt(const char* name, size_t tokens, const NetworkConfig& network);

// A cache of `window` tokens, the first `sinks` of which stay; `sinks` below 0: the placeholders, without them 4, where
// the published ones settle. Throws Error (78) naming the options for sizes that are no cache, or beyond the context.
StreamingCache streaming_cache(const NetworkConfig& network, int64_t window, int64_t sinks);
// What a decoder with this cache is made of, `chunk` tokens at once.
DecoderOptions streaming_options(const NetworkConfig& network, StreamingCache cache, int64_t chunk);

// What of `text` a terminal may show: characters that it would obey instead, but newline and tab, and bytes that are no
// UTF-8 become U+FFFD.
std::string for_terminal(std::string_view text);

// `plimsoll generate`.
struct GenerateCommand {
    std::string run;                    // or one of its checkpoints
    std::optional<std::string> prompt;  // without one: standard input
    GenerateOptions options;
    int64_t window = 0;  // --streaming; 0 = within the context
    int64_t sinks = -1;
    std::string precision = "fp32";
    int64_t threads = 0;
};
// Text to standard output as it comes, tokens per second to standard error. Returns the exit status.
int run_generate(const GenerateCommand& command);

}  // namespace plimsoll
