// What kind of character a code point is, as far as tokenizers ask. Unicode 16.0.0.
#pragma once

#include <string_view>

namespace plimsoll {

enum class CharClass {
    kOther,
    kLetter,  // \p{L}
    kNumber,  // \p{N}
    kSpace,   // \s, the property White_Space
};

inline constexpr std::string_view kUnicodeVersion = "16.0.0";

// The class of a code point; kOther for what is none (above U+10FFFF, a surrogate).
CharClass char_class(char32_t code);

}  // namespace plimsoll
