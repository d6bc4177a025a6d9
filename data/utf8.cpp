#include "data/utf8.h"

#include <algorithm>
#include <utility>

namespace plimsoll {
namespace {

unsigned char byte_at(std::string_view text, size_t offset) {
    return static_cast<unsigned char>(text[offset]);
}

// Bytes of the character that begins with `lead`; 0 if none does.
size_t length_of(unsigned char lead) {
    if (lead < 0x80) return 1;
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    if (lead >= 0xe0 && lead <= 0xef) return 3;
    return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

// How many bytes from `offset` on are those of one character, up to its length.
size_t well_formed(std::string_view text, size_t offset) {
    const unsigned char lead = byte_at(text, offset);
    const size_t length = length_of(lead);
    size_t good = std::min<size_t>(length, 1);
    for (; good < length && offset + good < text.size(); ++good) {
        const unsigned char byte = byte_at(text, offset + good);
        // The second byte excludes overlong forms, surrogates and what lies above U+10FFFF (RFC 3629, section 4).
        const bool second = good == 1;
        const unsigned char low = second && lead == 0xe0 ? 0xa0 : second && lead == 0xf0 ? 0x90 : 0x80;
        const unsigned char high = second && lead == 0xed ? 0x9f : second && lead == 0xf4 ? 0x8f : 0xbf;
        if (byte < low || byte > high) break;
    }
    return good;
}

}  // namespace

Utf8Symbol utf8_symbol(std::string_view text, size_t offset) {
    const unsigned char lead = byte_at(text, offset);
    if (lead < 0x80) return {lead, 1};
    const size_t length = length_of(lead);
    if (length == 0 || well_formed(text, offset) < length) return {};
    char32_t code = lead & (0x7f >> length);
    for (size_t i = 1; i < length; ++i) code = code << 6 | (byte_at(text, offset + i) & 0x3f);
    return {code, length};
}

void append_utf8(char32_t code, std::string& text) {
    const auto byte = [&](char32_t value) { text += static_cast<char>(static_cast<unsigned char>(value)); };
    if (code < 0x80) return byte(code);
    if (code < 0x800) {
        byte(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            byte(0xe0 | code >> 12);
        } else {
            byte(0xf0 | code >> 18);
            byte(0x80 | (code >> 12 & 0x3f));
        }
        byte(0x80 | (code >> 6 & 0x3f));
    }
    byte(0x80 | (code & 0x3f));
}

std::string Utf8Stream::push(std::string_view bytes) {
    std::string text = std::exchange(held_, {});
    text += bytes;
    // A character that is not finished begins within the last 3 bytes.
    for (size_t tail = 1; tail <= std::min<size_t>(3, text.size()); ++tail) {
        const size_t begin = text.size() - tail;
        if (length_of(byte_at(text, begin)) <= tail) continue;
        if (well_formed(text, begin) == tail) {
            held_ = text.substr(begin);
            text.resize(begin);
        }
        break;
    }
    return text;
}

std::string Utf8Stream::finish() {
    return std::exchange(held_, {});
}

}  // namespace plimsoll
