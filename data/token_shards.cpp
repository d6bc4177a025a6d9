#include "data/token_shards.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <filesystem>

#include "data/document_index.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are read as they lie in the file");

ShardFormat format_of(const std::string& path, int32_t magic, int32_t version) {
    for (const ShardFormat& format : {kShard16, kShard32}) {
        if (magic != format.magic) continue;
        if (version == format.version) return format;
        fail_input("token shard '{}': magic {} with version {}, wanted version {}", path, magic, version,
                   format.version);
    }
    fail_input(
        "token shard '{}': magic {}, wanted {} (uint16) or {} (uint32); is it an llm.c .bin shard? "
        "`plimsoll data prepare` makes them from text",
        path, magic, kShard16.magic, kShard32.magic);
}

}  // namespace

TokenShard::TokenShard(const std::string& path) : path_(path), file_(path, "token shard") {
    const int64_t file_bytes = static_cast<int64_t>(bytes().size());
    if (file_bytes < kShardHeaderBytes) {
        fail_input("token shard '{}': {} bytes, wanted at least the header of {}; was the download cut off?", path,
                   file_bytes, kShardHeaderBytes);
    }
    std::array<int32_t, 3> header{};
    std::memcpy(header.data(), bytes().data(), sizeof header);
    format_ = format_of(path, header[0], header[1]);
    tokens_ = header[2];
    const int64_t payload = file_bytes - kShardHeaderBytes;
    const int64_t held = payload / format_.token_bytes;
    if (payload % format_.token_bytes != 0) {
        fail_input(
            "token shard '{}': {} bytes after the header is not a multiple of {} bytes per token; header says {} "
            "tokens, file holds {} and a rest; was the download cut off?",
            path, payload, format_.token_bytes, tokens_, held);
    }
    if (held != tokens_) {
        fail_input("token shard '{}': header says {} tokens, file holds {}; was the {}?", path, tokens_, held,
                   held < tokens_ ? "download cut off" : "header written for another file");
    }
}

uint32_t TokenShard::raw(int64_t offset) const {
    const std::byte* token = bytes().data() + kShardHeaderBytes + offset * format_.token_bytes;
    uint32_t id = 0;
    std::memcpy(&id, token, static_cast<size_t>(format_.token_bytes));
    return id;
}

void TokenShard::read(int64_t offset, std::span<int32_t> ids, int64_t vocab_size) const {
    const int64_t count = static_cast<int64_t>(ids.size());
    check(offset >= 0 && offset + count <= tokens_, "tokens [{}, {}) of shard '{}' with {}", offset, offset + count,
          path_, tokens_);
    for (int64_t i = 0; i < count; ++i) {
        const uint32_t id = raw(offset + i);
        if (id >= vocab_size) {
            fail_input(
                "token shard '{}': token {} is id {}, wanted less than data.vocab_size = {}; was the shard made "
                "with another tokenizer?",
                path_, offset + i, id, vocab_size);
        }
        ids[static_cast<size_t>(i)] = static_cast<int32_t>(id);
    }
}

TokenShards::TokenShards(const std::string& pattern, int64_t vocab_size, std::string_view key)
    : pattern_(pattern), vocab_size_(vocab_size), begins_{0} {
    const std::vector<std::string> paths = match_files(pattern);
    if (paths.empty()) {
        fail_input("{} = '{}': no file matches; relative paths start at the current folder '{}'", key, pattern,
                   std::filesystem::current_path().string());
    }
    indexed_ = std::filesystem::exists(document_index_path(paths.front()));
    shards_.reserve(paths.size());
    for (const std::string& path : paths) {
        const TokenShard& shard = shards_.emplace_back(path);
        if (std::filesystem::exists(document_index_path(path)) != indexed_) {
            fail_input("{} = '{}': '{}' and '{}' do not agree on having a document index (.idx)", key, pattern,
                       paths.front(), path);
        }
        if (indexed_) {
            for (const int64_t start : read_document_index(path, shard.size())) {
                document_starts_.push_back(begins_.back() + start);
            }
        }
        begins_.push_back(begins_.back() + shard.size());
    }
}

void TokenShards::read(int64_t offset, std::span<int32_t> ids) const {
    const int64_t end = offset + static_cast<int64_t>(ids.size());
    check(offset >= 0 && end <= size(), "tokens [{}, {}) of shards with {}", offset, end, size());
    auto shard = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) - begins_.begin()) - 1;
    for (; !ids.empty(); ++shard) {
        const int64_t count = std::min(static_cast<int64_t>(ids.size()), begins_[shard + 1] - offset);
        shards_[shard].read(offset - begins_[shard], ids.first(static_cast<size_t>(count)), vocab_size_);
        ids = ids.subspan(static_cast<size_t>(count));
        offset += count;
    }
}

void TokenShards::document_starts(int64_t offset, int64_t count, std::vector<int64_t>& starts) const {
    append_starts(document_starts_, offset, count, starts);
}

std::string TokenShards::describe() const {
    return fmt::format("token shards '{}', {} file{}, {} tokens, {} ids", pattern_, shards_.size(),
                       shards_.size() == 1 ? "" : "s", size(), vocab_size_);
}

uint64_t TokenShards::content_hash() const {
    std::string hashes = fmt::format("{}", vocab_size_);
    for (const TokenShard& shard : shards_) hashes += fmt::format(" {:016x}", hash_content(shard.bytes()));
    for (const int64_t start : document_starts_) hashes += fmt::format(" {}", start);
    return hash_name(hashes);
}

}  // namespace plimsoll
