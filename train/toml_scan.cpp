#include "train/toml_scan.h"

#include <algorithm>
#include <string>

namespace plimsoll {
namespace {

// Index of the last character of the string that opens at `begin`, or text.size().
size_t end_of_string(std::string_view text, size_t begin) {
    const char quote = text[begin];
    const std::string_view three = text.substr(begin, 3);
    const bool lines = three == std::string(3, quote);
    const std::string_view closing = three.substr(0, lines ? 3 : 1);
    for (size_t i = begin + closing.size(); i < text.size(); ++i) {
        if (quote == '"' && text[i] == '\\') {
            ++i;
        } else if (text.substr(i, closing.size()) == closing) {
            i += closing.size() - 1;
            // """"" closes a string that ends in two quotes.
            for (int more = 0; lines && more < 2 && text.substr(i + 1, 1) == closing.substr(0, 1); ++more) ++i;
            return i;
        }
    }
    return text.size();
}

}  // namespace

int64_t count_dots(std::string_view text) {
    int64_t dots = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '#')
            i = std::min(text.find('\n', i), text.size());
        else if (text[i] == '"' || text[i] == '\'')
            i = end_of_string(text, i);
        else
            dots += text[i] == '.';
    }
    return dots;
}

size_t first_beyond_ascii(std::string_view text) {
    const auto beyond = [&](size_t i) { return i < text.size() && (static_cast<unsigned char>(text[i]) & 0x80); };
    for (size_t i = text.starts_with("\xef\xbb\xbf") ? 3 : 0; i < text.size(); ++i) {
        if (beyond(i)) return i;
        if (text[i] == '#') i = std::min(text.find('\n', i), text.size());
        if (i >= text.size() || (text[i] != '"' && text[i] != '\'')) continue;
        const size_t end = end_of_string(text, i);
        for (size_t at = i; text[i] == '"' && at < end; ++at) {
            if (text[at] != '\\') continue;
            const size_t next = std::min(text.find_first_not_of(" \t\r\n", at + 1), text.size());
            if (beyond(next)) return next;
            if (next == at + 1) ++at;  // an escape: what follows it begins nothing
        }
        i = end;
    }
    return std::string_view::npos;
}

}  // namespace plimsoll
