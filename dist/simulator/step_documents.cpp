#include "dist/simulator/step_documents.h"

#include <algorithm>
#include <numeric>
#include <queue>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// A part of a micro batch, with its place in the order of drawing.
struct Placed {
    int64_t order = 0;
    int64_t length = 0;
};

Documents in_order(std::vector<Placed> placed) {
    std::ranges::stable_sort(placed, {}, &Placed::order);
    Documents lengths;
    for (const Placed& document : placed) lengths.push_back(document.length);
    return lengths;
}

MicroBatchDocuments halved(const Documents& drawn, int64_t tokens_per_half) {
    std::vector<Placed> longest_first;
    for (size_t i = 0; i < drawn.size(); ++i) longest_first.push_back({static_cast<int64_t>(i), drawn[i]});
    std::ranges::stable_sort(longest_first, std::ranges::greater{}, &Placed::length);
    std::array<std::vector<Placed>, 2> halves;
    std::array<int64_t, 2> room{tokens_per_half, tokens_per_half}, pairs{0, 0};
    const auto put = [&](size_t half, const Placed& document) {
        halves[half].push_back(document);
        room[half] -= document.length;
        pairs[half] += causal_pairs(document.length);
    };
    for (const Placed& document : longest_first) {
        const size_t lighter = pairs[0] <= pairs[1] ? 0 : 1;
        if (document.length <= room[lighter]) {
            put(lighter, document);
        } else if (document.length <= room[1 - lighter]) {
            put(1 - lighter, document);
        } else {
            const size_t roomier = room[0] >= room[1] ? 0 : 1;
            const int64_t first = room[roomier], rest = document.length - first;
            put(roomier, {document.order, first});
            put(1 - roomier, {document.order, rest});
        }
    }
    return {{in_order(std::move(halves[0])), in_order(std::move(halves[1]))}};
}

}  // namespace

Documents MicroBatchDocuments::all() const {
    Documents lengths = halves[0];
    lengths.insert(lengths.end(), halves[1].begin(), halves[1].end());
    return lengths;
}

Documents StepDocuments::all() const {
    Documents lengths;
    for (const MicroBatchDocuments& micro_batch : micro_batches)
        for (const Documents& half : micro_batch.halves) lengths.insert(lengths.end(), half.begin(), half.end());
    return lengths;
}

StepDocuments draw_step(const std::function<int64_t(int64_t index)>& length, int64_t first, int64_t micro_batches,
                        int64_t tokens) {
    check(tokens > 0 && tokens % 2 == 0, "{} tokens in a micro batch, wanted an even number", tokens);
    StepDocuments step;
    step.tokens_per_half = tokens / 2;
    for (int64_t m = 0; m < micro_batches; ++m) {
        Documents drawn;
        for (int64_t room = tokens; room > 0; room -= drawn.back())
            drawn.push_back(std::min(room, length(first + step.drawn++)));
        step.micro_batches.push_back(halved(drawn, tokens / 2));
    }
    return step;
}

std::vector<CaSegment> place_in_order(std::span<const int64_t> lengths, int ranks) {
    const int64_t tokens = tokens_in(lengths);
    check(tokens % ranks == 0, "{} tokens do not divide among {} ranks", tokens, ranks);
    const int64_t per_rank = tokens / ranks;
    std::vector<CaSegment> segments;
    int64_t at = 0;  // of all tokens
    for (size_t d = 0; d < lengths.size(); ++d)
        for (int64_t begin = 0; begin < lengths[d];) {
            const int64_t rank = at / per_rank;
            const int64_t end = std::min(lengths[d], begin + (rank + 1) * per_rank - at);
            segments.push_back({static_cast<int64_t>(d), static_cast<int>(rank), begin, end});
            at += end - begin;
            begin = end;
        }
    return segments;
}

int64_t causal_pairs(std::span<const int64_t> lengths) {
    int64_t sum = 0;
    for (const int64_t length : lengths) sum += causal_pairs(length);
    return sum;
}

int64_t tokens_in(std::span<const int64_t> lengths) {
    return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

std::vector<Bin> pack_longest_first(std::span<const int64_t> lengths, int64_t bins, double most_tokens, double token,
                                    double pair) {
    Documents sorted(lengths.begin(), lengths.end());
    std::ranges::sort(sorted, std::ranges::greater{});
    std::vector<Bin> packed(static_cast<size_t>(bins));
    const auto put = [&](size_t b, int64_t length) {
        packed[b].tokens += length;
        packed[b].pairs += causal_pairs(length);
    };
    using Entry = std::pair<double, size_t>;  // work, bin
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> lightest;
    for (size_t b = 0; b < packed.size(); ++b) lightest.emplace(0, b);
    std::vector<Entry> full;  // for this document
    for (const int64_t length : sorted) {
        full.clear();
        while (!lightest.empty() && static_cast<double>(packed[lightest.top().second].tokens + length) > most_tokens) {
            full.push_back(lightest.top());
            lightest.pop();
        }
        if (lightest.empty()) {
            for (const Entry& entry : full) lightest.push(entry);
            // Its entry in the queue is now too light: harmless, since it has the tokens it may have.
            put(static_cast<size_t>(std::ranges::min_element(packed, {}, &Bin::tokens) - packed.begin()), length);
            continue;
        }
        const size_t b = lightest.top().second;
        lightest.pop();
        put(b, length);
        lightest.emplace(token * static_cast<double>(packed[b].tokens) + pair * static_cast<double>(packed[b].pairs),
                         b);
        for (const Entry& entry : full) lightest.push(entry);
    }
    return packed;
}

std::vector<Bin> cut_in_order(std::span<const int64_t> lengths, int64_t parts) {
    std::vector<Bin> bins(static_cast<size_t>(parts));
    for (const CaSegment& segment : place_in_order(lengths, static_cast<int>(parts))) {
        Bin& bin = bins[static_cast<size_t>(segment.home)];
        bin.tokens += segment.end - segment.begin;
        bin.pairs += causal_pairs(segment.begin, segment.end);
    }
    return bins;
}

}  // namespace plimsoll
