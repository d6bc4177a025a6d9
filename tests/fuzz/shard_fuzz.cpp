// A hostile token shard (data/token_shards.h), read whole and in pieces.
#include <algorithm>

#include "data/token_shards.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    static const std::string path = fuzz_folder() + "/shard.bin";
    write_input(path, {reinterpret_cast<const char*>(data), size});
    constexpr int64_t kVocab = 50257;
    accepted(size, [&] {
        const TokenShards shards(path, kVocab, "data.shards");
        const TokenShard& shard = shards.shards().front();
        require(shard.size() * shard.format().token_bytes + kShardHeaderBytes == static_cast<int64_t>(size),
                "a shard of another size than its file");
        for (int64_t i = 0; i < shard.size(); ++i) shard.raw(i);
        shards.content_hash();
        std::vector<int32_t> ids(7);
        for (int64_t offset = 0; offset < shards.size(); offset += 7) {
            ids.resize(static_cast<size_t>(std::min<int64_t>(7, shards.size() - offset)));
            shards.read(offset, ids);
            for (const int32_t id : ids) require(id >= 0 && id < kVocab, "an id outside the vocabulary");
        }
    });
    return 0;
}
