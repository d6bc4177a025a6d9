// Writes token shards (token_shards.h), and turns a text into a folder of them: `plimsoll data prepare`.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/token_shards.h"
#include "data/token_stream.h"

namespace plimsoll {

// uint16 where every id fits, as llm.c and modded-nanogpt read it, else uint32.
constexpr const ShardFormat& shard_format_for(int64_t vocab_size) {
    return vocab_size > 65535 ? kShard32 : kShard16;
}

// Writes one shard atomically: temporary file, fsync, rename.
// Throws Error: 78 for an id outside [0, vocab_size) or more tokens than the header's int32 holds, 74 if writing fails.
void write_token_shard(const std::string& path, std::span<const int32_t> ids, int64_t vocab_size);

struct PrepareOptions {
    std::string text = {};                        // path of the text file
    std::string out = {};                         // folder to make, or an empty one
    std::string tokenizer = "char";               // "char", "byte", or a file as load_tokenizer takes it
    double val_fraction = 0.1;                    // the last part of the tokens; 0 = no validation shards
    int64_t shard_tokens = 100'000'000;           // tokens per file, llm.c's default
    std::string separator = {};                   // between documents; empty = one document
    DocumentMark mark = DocumentMark::kEotToken;  // with a separator: eot tokens, or index files beside the shards
};

struct PrepareReport {
    int64_t vocab_size = 0;
    int64_t train_tokens = 0;
    int64_t val_tokens = 0;
    int64_t documents = 0;           // 0 without a separator
    std::vector<std::string> files;  // in `out`, in the order they were written; manifest.json last
};

// Writes train_000000.bin ..., val_000000.bin ..., tokenizer.json and, last, manifest.json, which lists sizes and
// FNV-1a hashes: hash_content of a shard, of tokenizer.json that of all its bytes. Equal input gives equal bytes. With
// the char tokenizer and val_fraction 0.1 the split is nanoGPT's shakespeare_char. The text is read into memory whole.
// Throws Error: 78 for options or text that cannot be used, or an `out` that already holds something; 74 if writing
// fails.
PrepareReport prepare_text(const PrepareOptions& options);

}  // namespace plimsoll
