// What the model reads in one micro batch.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll {

// B rows of T tokens, flat and row-major: position t of row b is element b * T + t.
struct Batch {
    int64_t B = 0;
    int64_t T = 0;
    std::vector<int32_t> tokens;     // (B, T) ids; placeholders are vocab_size .. vocab_size + k - 1
    std::vector<int32_t> targets;    // (B, T) id of the next token, -1 = not scored
    std::vector<int32_t> positions;  // (B, T) position within the document, from 0, placeholders counted
    // Where documents start in the flat B * T tokens, ascending, then B * T. A row always starts a document, so without
    // document masking these are 0, T, 2 T, ..., B * T.
    std::vector<int32_t> cu_seqlens;
};

}  // namespace plimsoll
