// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace plimsoll {

// A tokenizer maps bytes to ids in [0, vocab_size) and back. It may have one more id, the last, for "end of text"
// (eot), which stands before each document in a shard and decodes to nothing.
class Tokenizer {
  public:
    virtual ~Tokenizer() = default;

    virtual std::string_view kind() const = 0;  // "char", "byte": the legal values of data.tokenizer
    virtual int64_t vocab_size() const = 0;     // eot included
    virtual int32_t eot_token() const = 0;      // -1 if there is none
    // Appends the ids of `text`. Throws Error (78) naming the byte offset of a character outside the vocabulary.
    virtual void encode(std::string_view text, std::vector<int32_t>& ids) const = 0;
    // The bytes of one token; empty for eot. Throws Error (78) for an id outside the vocabulary.
    virtual std::string_view token_bytes(int32_t id) const = 0;
    // The vocabulary file, as JSON text: equal tokenizers give equal text.
    virtual std::string to_json() const = 0;

    std::vector<int32_t> encode(std::string_view text) const;
    std::string decode(std::span<const int32_t> ids) const;
    // A short printable name of a token, for tables and axes.
    std::string label(int32_t id) const;
    uint64_t content_hash() const;
};

// One id per distinct byte of `text`, in ascending order (nanoGPT's shakespeare_char, for ASCII text).
// Throws Error (78) if the text is empty.
std::unique_ptr<Tokenizer> make_char_tokenizer(std::string_view text, bool with_eot);
// One id per byte value: id = byte, vocab_size 256, or 257 with eot.
std::unique_ptr<Tokenizer> make_byte_tokenizer(bool with_eot);

// Reads what to_json() wrote:
//   {"format": "plimsoll-tokenizer", "version": 1, "kind": "char", "eot_token": 65 or null, "bytes": [10, 32, ...]}
// Throws Error (78) for anything else.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& path);
void save_tokenizer(const Tokenizer& tokenizer, const std::string& path);

// `bytes` for people: a newline as \n, a blank as U+2423, other unprintable bytes as \xNN; UTF-8 stays as it is.
std::string printable(std::string_view bytes);

}  // namespace plimsoll
