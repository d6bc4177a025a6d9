// The sidecar `x.bin.idx`: where the documents of the token shard `x.bin` start, for shards without an eot token.
//
// Little-endian: 8 bytes "PLIMSIDX", uint64 version (1), uint64 tokens in the shard, uint64 count, then count uint64
// offsets into the shard, in tokens, strictly ascending. A token before the first offset continues a document of the
// shard before.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace plimsoll {

inline std::string document_index_path(const std::string& shard_path) {
    return shard_path + ".idx";
}

// Reads and checks the index beside `shard_path`, a shard of `shard_tokens` tokens.
// Throws Error (78) for a wrong magic, version, size or token count, and for offsets out of order or out of range.
std::vector<int64_t> read_document_index(const std::string& shard_path, int64_t shard_tokens);

// Writes it atomically. Requires ascending offsets in [0, shard_tokens).
void write_document_index(const std::string& shard_path, int64_t shard_tokens, std::span<const int64_t> starts);

}  // namespace plimsoll
