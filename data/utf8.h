// UTF-8 (RFC 3629), for texts that may hold anything.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace plimsoll {

inline constexpr char32_t kInvalidByte = 0xffffffff;

// A character of a text, or a byte that belongs to none.
struct Utf8Symbol {
    char32_t code = kInvalidByte;  // kInvalidByte for a byte that is not part of a well-formed character
    size_t bytes = 1;              // 1 to 4; 1 for an invalid byte
};

// The symbol at `offset` < text.size(). Overlong forms, surrogates and what lies above U+10FFFF are not well-formed:
// each of their bytes is a symbol.
Utf8Symbol utf8_symbol(std::string_view text, size_t offset);

void append_utf8(char32_t code, std::string& text);

// Bytes in, whole characters out: for text that arrives token by token, where a token may end within a character.
class Utf8Stream {
  public:
    // What is complete of the bytes so far and not yet returned. Bytes that cannot become a character come out as they
    // are; at most 3 bytes, the beginning of a character, are held back.
    std::string push(std::string_view bytes);
    // What was held back: the beginning of a character that never ended, or nothing.
    std::string finish();

  private:
    std::string held_;
};

}  // namespace plimsoll
