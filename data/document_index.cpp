#include "data/document_index.h"

#include <array>
#include <bit>
#include <cstring>

#include "data/file.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "the index is read and written as it lies in memory");

constexpr std::string_view kMagic = "PLIMSIDX";
constexpr uint64_t kVersion = 1;
struct Fields {
    uint64_t version, tokens, count;
};
constexpr size_t kHeaderBytes = kMagic.size() + sizeof(Fields);

}  // namespace

std::vector<int64_t> read_document_index(const std::string& shard_path, int64_t shard_tokens) {
    const std::string path = document_index_path(shard_path);
    const std::string bytes = read_file(path, "document index");
    if (bytes.size() < kHeaderBytes || bytes.compare(0, kMagic.size(), kMagic) != 0) {
        fail_input("document index '{}': {} bytes without the magic '{}'; was it written by `plimsoll data prepare`?",
                   path, bytes.size(), kMagic);
    }
    Fields fields{};
    std::memcpy(&fields, bytes.data() + kMagic.size(), sizeof fields);
    if (fields.version != kVersion) {
        fail_input("document index '{}': version {}, wanted {}", path, fields.version, kVersion);
    }
    if (fields.tokens != static_cast<uint64_t>(shard_tokens)) {
        fail_input("document index '{}': made for a shard of {} tokens, '{}' holds {}; was the shard written again?",
                   path, fields.tokens, shard_path, shard_tokens);
    }
    const uint64_t held = (bytes.size() - kHeaderBytes) / sizeof(uint64_t);
    if (fields.count != held || (bytes.size() - kHeaderBytes) % sizeof(uint64_t) != 0) {
        fail_input("document index '{}': header says {} documents, file holds {} ({} bytes); was the download cut off?",
                   path, fields.count, held, bytes.size());
    }
    std::vector<int64_t> starts(held);
    if (held > 0) std::memcpy(starts.data(), bytes.data() + kHeaderBytes, held * sizeof(uint64_t));
    int64_t last = -1;
    for (size_t i = 0; i < starts.size(); ++i) {
        if (starts[i] <= last || starts[i] >= shard_tokens) {
            fail_input("document index '{}': offset {} is {}, wanted more than {} and less than {} tokens", path, i,
                       static_cast<uint64_t>(starts[i]), last, shard_tokens);
        }
        last = starts[i];
    }
    return starts;
}

void write_document_index(const std::string& shard_path, int64_t shard_tokens, std::span<const int64_t> starts) {
    const Fields fields{.version = kVersion, .tokens = static_cast<uint64_t>(shard_tokens), .count = starts.size()};
    write_file_atomically(document_index_path(shard_path),
                          {kMagic,
                           {reinterpret_cast<const char*>(&fields), sizeof fields},
                           {reinterpret_cast<const char*>(starts.data()), starts.size_bytes()}});
}

}  // namespace plimsoll
