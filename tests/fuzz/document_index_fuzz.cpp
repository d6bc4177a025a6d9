// A hostile sidecar index (data/document_index.h).
#include <cstring>

#include "data/document_index.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    static const std::string shard = fuzz_folder() + "/shard.bin";
    write_input(document_index_path(shard), {reinterpret_cast<const char*>(data), size});
    // The shard of the seeds, and the one the input claims to belong to.
    int64_t claimed = 0;
    if (size >= 24) std::memcpy(&claimed, data + 16, sizeof claimed);
    for (const int64_t tokens : {int64_t{64}, claimed}) {
        if (tokens < 0) continue;
        accepted(size, [&] {
            const std::vector<int64_t> starts = read_document_index(shard, tokens);
            require(starts.size() * sizeof(int64_t) < size, "more documents than the file holds");
            int64_t last = -1;
            for (const int64_t start : starts) {
                require(start > last && start < tokens, "offsets out of order or out of range");
                last = start;
            }
        });
    }
    return 0;
}
