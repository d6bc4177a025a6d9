#include "data/pretokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "data/unicode_classes.h"
#include "data/utf8.h"

namespace plimsoll {
namespace {

constexpr std::array kRules = {
    SplitRuleInfo{SplitRule::kWhole, "", ""},
    SplitRuleInfo{SplitRule::kGpt2, R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
                  "gpt-2"},
    SplitRuleInfo{SplitRule::kLlama3,
                  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                  R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
                  "llama-bpe"},
    SplitRuleInfo{SplitRule::kQwen2,
                  R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
                  R"(\s*[\r\n]+|\s+(?!\S)|\s+)",
                  "qwen2"},
};

struct Place {
    Utf8Symbol symbol{.code = kInvalidByte, .bytes = 0};
    CharClass kind = CharClass::kOther;
    bool exists = false;  // false at the end of the text

    bool is(CharClass wanted) const { return exists && kind == wanted; }
    bool is_newline() const { return exists && (symbol.code == '\n' || symbol.code == '\r'); }
};

Place place_at(std::string_view text, size_t offset) {
    if (offset >= text.size()) return {};
    const Utf8Symbol symbol = utf8_symbol(text, offset);
    return {symbol, char_class(symbol.code), true};
}

// The end of the longest run of `kind` from `begin` on.
size_t run_end(std::string_view text, size_t begin, CharClass kind) {
    for (Place place = place_at(text, begin); place.is(kind); place = place_at(text, begin))
        begin += place.symbol.bytes;
    return begin;
}

// The end of 's|'t|'re|'ve|'m|'ll|'d at `begin`, where an apostrophe stands; `begin` if there is none.
size_t contraction_end(std::string_view text, size_t begin, bool any_case) {
    const auto letter = [&](size_t offset) -> char {
        if (offset >= text.size()) return '\0';
        const char c = text[offset];
        return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    };
    const char first = letter(begin + 1), second = letter(begin + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return begin + 2;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
        return begin + 3;
    // Without regard to case, U+017F (a long s) is an s too.
    return any_case && text.substr(begin + 1).starts_with("\u017f") ? begin + 3 : begin;
}

// \s+(?!\S)|\s+: all spaces up to the end of the text; before anything else one less, which may lead the next piece.
size_t space_end(std::string_view text, size_t begin) {
    size_t end = begin, last = begin;
    for (Place place = place_at(text, end); place.is(CharClass::kSpace); place = place_at(text, end)) {
        last = end;
        end += place.symbol.bytes;
    }
    return end == text.size() || last == begin ? end : last;
}

size_t gpt2_end(std::string_view text, size_t begin) {
    const Place first = place_at(text, begin);
    if (first.symbol.code == '\'') {
        if (const size_t end = contraction_end(text, begin, false); end != begin) return end;
    }
    if (first.kind != CharClass::kSpace) return run_end(text, begin, first.kind);
    const Place next = place_at(text, begin + 1);
    if (first.symbol.code == ' ' && next.exists && next.kind != CharClass::kSpace)
        return run_end(text, begin + 1, next.kind);
    return space_end(text, begin);
}

size_t llama3_end(std::string_view text, size_t begin, int max_digits) {
    const Place first = place_at(text, begin);
    if (first.symbol.code == '\'') {
        if (const size_t end = contraction_end(text, begin, true); end != begin) return end;
    }
    const size_t after = begin + first.symbol.bytes;
    const Place next = place_at(text, after);
    if (first.is(CharClass::kLetter)) return run_end(text, begin, CharClass::kLetter);
    if (!first.is_newline() && !first.is(CharClass::kNumber) && next.is(CharClass::kLetter))
        return run_end(text, after, CharClass::kLetter);
    if (first.is(CharClass::kNumber)) {
        size_t end = after;
        for (Place digit = next; --max_digits > 0 && digit.is(CharClass::kNumber); digit = place_at(text, end))
            end += digit.symbol.bytes;
        return end;
    }
    if (first.is(CharClass::kOther) || (first.symbol.code == ' ' && next.is(CharClass::kOther))) {
        size_t end = run_end(text, after, CharClass::kOther);
        while (place_at(text, end).is_newline()) ++end;
        return end;
    }
    // \s*[\r\n]+: up to the last newline among the spaces.
    size_t line_end = begin;
    for (size_t end = begin; place_at(text, end).is(CharClass::kSpace);) {
        const Place place = place_at(text, end);
        end += place.symbol.bytes;
        if (place.is_newline()) line_end = end;
    }
    return line_end != begin ? line_end : space_end(text, begin);
}

}  // namespace

const SplitRuleInfo& info_of(SplitRule rule) {
    return kRules[static_cast<size_t>(rule)];
}

const SplitRuleInfo* find_split_rule(std::string_view regex) {
    const auto found = std::find_if(kRules.begin(), kRules.end(),
                                    [&](const SplitRuleInfo& info) { return !regex.empty() && info.regex == regex; });
    return found == kRules.end() ? nullptr : &*found;
}

size_t piece_end(SplitRule rule, std::string_view text, size_t begin) {
    switch (rule) {
        case SplitRule::kGpt2:
            return gpt2_end(text, begin);
        case SplitRule::kLlama3:
            return llama3_end(text, begin, 3);
        case SplitRule::kQwen2:
            return llama3_end(text, begin, 1);
        case SplitRule::kWhole:
            break;
    }
    return text.size();
}

}  // namespace plimsoll
