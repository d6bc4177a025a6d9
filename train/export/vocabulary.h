// A tokenizer as llama.cpp wants it: byte-level BPE, every id with a text and a type.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "train/export/gguf_file.h"
#include "train/trained_model.h"

namespace plimsoll {

struct VocabularyRows {
    std::vector<std::string> tokens;  // by id, unique; normal ones in GPT-2's unicode form
    std::vector<int32_t> types;       // by id, TokenType
    std::vector<std::string> merges;  // "a b" by rank; none where a byte is a token
    std::string pre;                  // llama.cpp's name of how texts are cut; empty if it has none
    bool add_space_prefix = false;
    int32_t bos = 0, eos = 0;
    bool add_bos = false;
    bool has_eos = true;  // false: nothing in the training data ended a text; llama.cpp wants an id all the same
};

// The tokens of a model: its tokenizer's, then names for ids the tokenizer does not have (padding), then placeholders.
// A single placeholder is the id every text begins with. Needs a tokenizer.
VocabularyRows vocabulary_rows(const TrainedModel& model);

// tokenizer.ggml.*: of a model with a tokenizer. Without one ids are all there is: model "no_vocab".
void add_tokenizer_keys(GgufMetadata& metadata, const TrainedModel& model);

}  // namespace plimsoll
