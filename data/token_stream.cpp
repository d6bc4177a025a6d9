#include "data/token_stream.h"

#include <algorithm>

#include "data/file.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

// Encodes one document so that the offset in an error counts from the start of the whole text.
void encode_at(std::string_view text, size_t begin, size_t end, const Tokenizer& tokenizer, std::vector<int32_t>& ids) {
    try {
        tokenizer.encode(text.substr(begin, end - begin), ids);
    } catch (const Error& error) {
        if (begin == 0) throw;
        throw Error(error.code(), fmt::format("{} (counted from byte {} of the text)", error.what(), begin));
    }
}

}  // namespace

EncodedText encode_documents(std::string_view text, const Tokenizer& tokenizer, std::string_view separator,
                             DocumentMark mark) {
    EncodedText encoded;
    if (separator.empty()) {
        tokenizer.encode(text, encoded.ids);
        return encoded;
    }
    check(mark == DocumentMark::kIndex || tokenizer.eot_token() >= 0, "eot marks need a tokenizer with an eot token");
    size_t begin = 0;
    while (begin < text.size()) {
        const size_t found = text.find(separator, begin);
        const size_t end = found == std::string_view::npos ? text.size() : found;
        size_t next = std::min(text.size(), end + separator.size());
        while (next < text.size() && text.substr(next, separator.size()) == separator) next += separator.size();
        if (mark == DocumentMark::kEotToken && end > begin) {
            encoded.ids.push_back(tokenizer.eot_token());
            encode_at(text, begin, end, tokenizer, encoded.ids);
        } else if (mark == DocumentMark::kIndex) {
            encoded.document_starts.push_back(static_cast<int64_t>(encoded.ids.size()));
            encode_at(text, begin, next, tokenizer, encoded.ids);
        }
        begin = next;
    }
    return encoded;
}

void append_starts(std::span<const int64_t> all, int64_t offset, int64_t count, std::vector<int64_t>& starts) {
    for (auto start = std::lower_bound(all.begin(), all.end(), offset); start != all.end() && *start < offset + count;
         ++start)
        starts.push_back(*start - offset);
}

MemoryTokens::MemoryTokens(std::string name, EncodedText text, std::shared_ptr<const Tokenizer> tokenizer)
    : name_(std::move(name)), text_(std::move(text)), tokenizer_(std::move(tokenizer)) {}

void MemoryTokens::read(int64_t offset, std::span<int32_t> ids) const {
    const int64_t end = offset + static_cast<int64_t>(ids.size());
    check(offset >= 0 && end <= size(), "tokens [{}, {}) of a text of {}", offset, end, size());
    std::copy_n(text_.ids.begin() + offset, ids.size(), ids.begin());
}

void MemoryTokens::document_starts(int64_t offset, int64_t count, std::vector<int64_t>& starts) const {
    append_starts(text_.document_starts, offset, count, starts);
}

std::string MemoryTokens::describe() const {
    return fmt::format("text '{}', {} tokens, {} tokenizer with {} ids", name_, size(), tokenizer_->kind(),
                       vocab_size());
}

uint64_t MemoryTokens::content_hash() const {
    return hash_name(fmt::format("{:016x} {:016x} {:016x}", hash_content(std::as_bytes(std::span(text_.ids))),
                                 hash_content(std::as_bytes(std::span(text_.document_starts))),
                                 tokenizer_->content_hash()));
}

}  // namespace plimsoll
