// Where byte-level BPE tokenizers cut a text before they merge within the pieces.
#pragma once

#include <cstddef>
#include <string_view>

namespace plimsoll {

// The regular expressions that tokenizers in use split by. Every one matches any text as a row of pieces without gaps.
enum class SplitRule {
    kWhole,   // none: the text is one piece
    kGpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
    kLlama3,  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|
              // \s+(?!\S)|\s+    also GPT-4's (cl100k), as converted for Hugging Face
    kQwen2,   // as kLlama3, with \p{N} for \p{N}{1,3}
};

// What a rule is called and how its expression is written in a tokenizer.json.
struct SplitRuleInfo {
    SplitRule rule;
    std::string_view regex;      // empty for kWhole
    std::string_view llama_cpp;  // llama.cpp's name (GGUF's tokenizer.ggml.pre); empty for kWhole
};
const SplitRuleInfo& info_of(SplitRule rule);
// The rule whose expression is `regex`, or null.
const SplitRuleInfo* find_split_rule(std::string_view regex);

// The end of the piece that begins at `begin` < text.size(). Letters, numbers and spaces are those of
// unicode_classes.h; a byte that is no UTF-8 is none of them.
size_t piece_end(SplitRule rule, std::string_view text, size_t begin);

}  // namespace plimsoll
