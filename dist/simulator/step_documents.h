// The documents of one training step, and where they lie.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/cad/plan.h"

namespace plimsoll {

// Lengths, in the order of drawing.
using Documents = std::vector<int64_t>;

// A micro batch of all data ranks together: two halves with equally many tokens (nano batches), which ping-pong
// computes in turn.
struct MicroBatchDocuments {
    std::array<Documents, 2> halves;
    Documents all() const;
};

struct StepDocuments {
    std::vector<MicroBatchDocuments> micro_batches;
    int64_t tokens_per_half = 0;
    int64_t drawn = 0;  // lengths used

    Documents all() const;
};

// Fills `micro_batches` micro batches of `tokens` tokens (even) with documents length(first), length(first + 1), ...
// The last one of a micro batch ends where it ends. Halves get the longest documents first, each to the half with fewer
// query-key pairs; one that no half has room for is cut into two documents. What every policy computes afterwards is
// these documents, whole: cutting one where a rank ends and restarting its positions would save attention.
StepDocuments draw_step(const std::function<int64_t(int64_t index)>& length, int64_t first, int64_t micro_batches,
                        int64_t tokens);

// Packed in order on `ranks` ranks with equally many tokens: a document may begin on one and go on on the next, where
// its positions go on too. The tokens must divide among the ranks.
std::vector<CaSegment> place_in_order(std::span<const int64_t> lengths, int ranks);

// Query-key pairs of a causal document, or of its part [begin, end).
constexpr int64_t causal_pairs(int64_t length) {
    return length * (length + 1) / 2;
}
constexpr int64_t causal_pairs(int64_t begin, int64_t end) {
    return causal_pairs(end) - causal_pairs(begin);
}
int64_t causal_pairs(std::span<const int64_t> lengths);
int64_t tokens_in(std::span<const int64_t> lengths);

// What a micro batch of one group of ranks holds.
struct Bin {
    int64_t tokens = 0;
    int64_t pairs = 0;
};

// Whole documents into `bins` bins, longest first, each into the bin of least work, tokens x token + pairs x pair, that
// it leaves with at most `most_tokens`; into the one with fewest tokens where none has room. The heuristic of WLB-LLM
// (arXiv:2503.17924) as DistCA's release compares with, without its queues that hold documents back.
std::vector<Bin> pack_longest_first(std::span<const int64_t> lengths, int64_t bins, double most_tokens, double token,
                                    double pair);

// Every part of a document, cut in order into `parts` equal ones: its tokens and pairs, positions going on.
std::vector<Bin> cut_in_order(std::span<const int64_t> lengths, int64_t parts);

}  // namespace plimsoll
