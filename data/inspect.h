// What is in a shard or behind a configuration, as text for people: `plimsoll data inspect`.
#pragma once

#include <cstdint>
#include <string>

#include "data/config.h"

namespace plimsoll {

struct InspectOptions {
    int64_t vocab_size = 0;           // of shards; 0 = the tokenizer's if there is one, else ids are not checked
    std::string tokenizer_file = {};  // empty = tokenizer.json beside the shards, if there is one
    int64_t eot_token = -1;           // -1 = the tokenizer's, if it has one
    int64_t first_tokens = 64;        // how many tokens of each shard to show
    int64_t most_frequent = 10;       // how many ids to list
};

// Header, size, number of tokens and documents, smallest, largest and most frequent ids and the first tokens of each
// shard that matches `pattern`. Reads every token.
// Throws Error (78) for a malformed shard, and for the first id that is not below the vocabulary's size.
std::string inspect_shards(const std::string& pattern, const InspectOptions& options);

// Both splits of a configuration: the sources, samples, and the first sample as the model will see it, in rows of T.
// Throws Error (78) for what cannot be loaded.
std::string inspect_config(const DataConfig& config, int64_t T, uint64_t seed);

}  // namespace plimsoll
