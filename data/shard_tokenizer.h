// Which tokenizer made token shards.
#pragma once

#include <memory>
#include <string>

#include "data/tokenizer.h"

namespace plimsoll {

inline constexpr const char* kTokenizerFile = "tokenizer.json";
inline constexpr const char* kManifestFile = "manifest.json";

// A tokenizer and where it was found, for messages. Null if none was.
struct FoundTokenizer {
    std::shared_ptr<const Tokenizer> tokenizer;
    std::string place;
};

// The tokenizer.json in the folders of the shards that match `pattern`.
// Throws Error (78), naming both, if two folders hold different tokenizers, and if a manifest.json beside one names
// another hash for it: that of the file when the shards were made.
FoundTokenizer find_shard_tokenizer(const std::string& pattern);

// `first` if there is one, else `second`. Throws Error (78), naming both, if they are different tokenizers.
FoundTokenizer same_tokenizer(const FoundTokenizer& first, const FoundTokenizer& second);

}  // namespace plimsoll
