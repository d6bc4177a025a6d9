// Byte-level BPE models in the files they come in.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "data/bpe.h"

namespace plimsoll {

// The model of a Hugging Face tokenizer.json: model BPE, pre_tokenizer ByteLevel (alone, or behind a Split by one of
// the expressions in pretokenizer.h), decoder ByteLevel, added tokens, and a post_processor that at most puts one token
// before the text (bos_token; encode() adds nothing).
// Throws Error (78), naming the key, for everything else: what is not implemented is never skipped.
BpeModel read_bpe_json(const nlohmann::json& file, const std::string& path);

// The model of GPT-2's vocab.json (token -> id) and merges.txt (one merge "a b" per line, by rank). GPT-2's expression;
// <|endoftext|>, if it is there, is special. Throws Error (78).
BpeModel read_gpt2_vocabulary(const nlohmann::json& vocab, const std::string& vocab_path, std::string_view merges,
                              const std::string& merges_path);

// A tokenizer.json with what the model holds and nothing else, on one line: equal models give equal text.
// read_bpe_json reads it back, and so does Hugging Face's library.
std::string bpe_json(const BpeModel& model);

}  // namespace plimsoll
