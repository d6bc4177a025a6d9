// Token shards on disk, in llm.c's .bin format (dev/data/data_common.py and llmc/dataloader.h there).
//
// A header of 256 little-endian int32, [0] magic, [1] version, [2] number of tokens, rest 0; then the tokens:
//   magic 20240520, version 1: uint16 (GPT-2)        magic 20240801, version 7: uint32 (Llama 3, V > 65,535)
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/file.h"
#include "data/token_stream.h"

namespace plimsoll {

struct ShardFormat {
    int32_t magic;
    int32_t version;
    int64_t token_bytes;
};
inline constexpr ShardFormat kShard16{.magic = 20240520, .version = 1, .token_bytes = 2};
inline constexpr ShardFormat kShard32{.magic = 20240801, .version = 7, .token_bytes = 4};
inline constexpr int64_t kShardHeaderBytes = 1024;

// One shard, mapped. Opening checks header and size; ids are checked when they are read.
class TokenShard {
  public:
    // Throws Error (78) for a missing or truncated file, an unknown magic or version, or a size that does not match.
    explicit TokenShard(const std::string& path);

    const std::string& path() const { return path_; }
    const ShardFormat& format() const { return format_; }
    int64_t size() const { return tokens_; }
    std::span<const std::byte> bytes() const { return file_.bytes(); }
    // Id at `offset` < size(), as it lies in the file.
    uint32_t raw(int64_t offset) const;
    // Copies tokens [offset, offset + ids.size()). Throws Error (78) naming file, offset and id if one is not below
    // vocab_size.
    void read(int64_t offset, std::span<int32_t> ids, int64_t vocab_size) const;

  private:
    std::string path_;
    MappedFile file_;
    ShardFormat format_{};
    int64_t tokens_ = 0;
};

// The shards that match a pattern, in the order of their names, read as one stream. Where a shard has a sidecar index
// (document_index.h) the stream knows its documents; either every shard has one or none.
class TokenShards final : public TokenStream {
  public:
    // `key` is the configuration key the pattern came from, for messages. Throws Error (78) if nothing matches.
    TokenShards(const std::string& pattern, int64_t vocab_size, std::string_view key);

    const std::vector<TokenShard>& shards() const { return shards_; }
    int64_t size() const override { return begins_.back(); }
    int64_t vocab_size() const override { return vocab_size_; }
    void read(int64_t offset, std::span<int32_t> ids) const override;
    bool has_document_starts() const override { return indexed_; }
    void document_starts(int64_t offset, int64_t count, std::vector<int64_t>& starts) const override;
    std::string describe() const override;
    uint64_t content_hash() const override;

  private:
    std::string pattern_;
    int64_t vocab_size_;
    std::vector<TokenShard> shards_;
    std::vector<int64_t> begins_;           // stream offset of each shard's first token, then the total
    bool indexed_ = false;                  // every shard has a sidecar
    std::vector<int64_t> document_starts_;  // stream offsets, from the sidecars
};

}  // namespace plimsoll
