// A long row of tokens, from files or from memory, out of which windows.h cuts samples.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace plimsoll {

class TokenStream {
  public:
    virtual ~TokenStream() = default;

    virtual int64_t size() const = 0;  // tokens
    virtual int64_t vocab_size() const = 0;
    // Copies tokens [offset, offset + ids.size()). Throws Error (78) naming file, offset and id for an id that is not
    // in [0, vocab_size).
    virtual void read(int64_t offset, std::span<int32_t> ids) const = 0;
    // Whether the stream itself knows where documents start (otherwise an eot token has to tell).
    virtual bool has_document_starts() const = 0;
    // Appends i for each document that starts at offset + i, 0 <= i < count, ascending. Nothing if it does not know.
    virtual void document_starts(int64_t offset, int64_t count, std::vector<int64_t>& starts) const = 0;
    virtual std::string describe() const = 0;
    virtual uint64_t content_hash() const = 0;
};

// Appends start - offset for each of `all` (ascending) that lies in [offset, offset + count).
void append_starts(std::span<const int64_t> all, int64_t offset, int64_t count, std::vector<int64_t>& starts);

// How documents are told apart once a text is tokens.
enum class DocumentMark {
    kEotToken,  // the separator is replaced by the tokenizer's eot token, and eot precedes the first document too
    kIndex,     // the text stays as it is; a document starts at 0 and after each separator
};

// A text as tokens and, with DocumentMark::kIndex, the offsets at which its documents start.
struct EncodedText {
    std::vector<int32_t> ids;
    std::vector<int64_t> document_starts;
};

// Encodes `text`; an empty `separator` means one document without marks. Separators that leave an empty document
// between them count as one. Throws Error (78) for an unknown character (offset within `text`).
EncodedText encode_documents(std::string_view text, const Tokenizer& tokenizer, std::string_view separator,
                             DocumentMark mark);

// Tokens in memory. `name` is for messages.
class MemoryTokens final : public TokenStream {
  public:
    MemoryTokens(std::string name, EncodedText text, std::shared_ptr<const Tokenizer> tokenizer);

    int64_t size() const override { return static_cast<int64_t>(text_.ids.size()); }
    int64_t vocab_size() const override { return tokenizer_->vocab_size(); }
    void read(int64_t offset, std::span<int32_t> ids) const override;
    bool has_document_starts() const override { return !text_.document_starts.empty(); }
    void document_starts(int64_t offset, int64_t count, std::vector<int64_t>& starts) const override;
    std::string describe() const override;
    uint64_t content_hash() const override;

  private:
    std::string name_;
    EncodedText text_;
    std::shared_ptr<const Tokenizer> tokenizer_;
};

}  // namespace plimsoll
