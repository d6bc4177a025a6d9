// Text to token ids and back, on standard streams: `plimsoll data encode` and `plimsoll data decode`.
#pragma once

#include <iosfwd>
#include <string>

namespace plimsoll {

struct TokenizeOptions {
    std::string tokenizer = {};  // as load_tokenizer takes it
    bool specials = false;       // encode: names of control tokens are those tokens; decode: their names are written
    bool json_lines = false;     // many texts: a JSON string per line, ids as a JSON list per line
};

// Reads the text to its end, writes its ids in decimal, a blank between two and a newline behind the last.
// Throws Error: 78 for a tokenizer or an input that cannot be used, naming its line; 74 if reading or writing fails.
void encode_text(const TokenizeOptions& options, std::istream& in, std::ostream& out);
// Reads ids in decimal, with white space or commas between them, and writes their bytes. In JSON strings what is no
// UTF-8 becomes U+FFFD. Throws like encode_text.
void decode_ids(const TokenizeOptions& options, std::istream& in, std::ostream& out);

}  // namespace plimsoll
