// Byte-level BPE (byte pair encoding), as GPT-2 introduced it and Hugging Face's tokenizer.json holds it.
//
// A text is cut by added tokens, then into pieces (pretokenizer.h). The bytes of a piece are its first symbols; as long
// as some two neighbours are a merge, the merge of lowest rank is applied, at its leftmost place.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/pretokenizer.h"
#include "data/tokenizer.h"

namespace plimsoll {

// A token that is looked for in the text itself, before it is cut.
struct AddedToken {
    std::string text;
    int32_t id = 0;
    bool special = true;  // control: found only with SpecialTokens::kParse, decodes to nothing
    // Found in a second pass, in what the tokens without it leave.
    bool normalized = false;
    bool in_vocabulary = false;  // model.vocab holds it too
};

struct BpeMerge {
    int32_t left = 0, right = 0;
    int32_t merged = 0;  // the token whose bytes are those of both
};

// What a tokenizer file holds.
struct BpeModel {
    std::vector<std::string> tokens;  // by id: in GPT-2's unicode form of their bytes; added tokens as they are
    std::vector<BpeMerge> merges;     // by rank
    std::vector<AddedToken> added;    // by id
    SplitRule split = SplitRule::kGpt2;
    bool add_prefix_space = false;  // a blank before each text (between added tokens) that does not begin with one
    bool ignore_merges = false;     // a piece that is a token is that token, whatever the merges say
    int32_t bos_token = -1;         // what a model's input begins with by the file's post-processor; -1 = none
};

// GPT-2's unicode form: each byte as one printable character, so that any bytes are text without blanks.
// data: https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode
std::string unicode_form(std::string_view bytes);
// The bytes of a text in that form; false if a character is not of the form.
bool bytes_of_unicode_form(std::string_view form, std::string& bytes);

// The tokenizer of a model. encode() is deterministic and takes O(n log n) for a piece of n bytes; any bytes come back
// from decode(), except for a blank that add_prefix_space adds and the text of special tokens that were parsed.
// Throws Error (78), naming `path`, for ids without a token, two tokens of equal bytes, or a merge twice.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(BpeModel model, const std::string& path);

}  // namespace plimsoll
