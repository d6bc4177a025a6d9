#include "dist/shard_layout.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int64_t kShardAlignment = 16;  // elements: a cache line of fp32

// Where the buffer may be cut next to `at`, which lies in parts[first, last) or at `end`, where they end.
int64_t nearest_cut(const std::vector<LayerPart>& parts, size_t first, size_t last, int64_t end, int64_t at) {
    if (at == end) return at;
    size_t i = first;
    while (i + 1 < last && parts[i + 1].range.begin <= at) ++i;
    const int64_t begin = parts[i].range.begin, unit = parts[i].unit,
                  next = i + 1 < last ? parts[i + 1].range.begin : end;
    if (unit == 1) return at;
    const int64_t below = begin + (at - begin) / unit * unit;
    // A part's last unit goes with the gap behind it.
    const int64_t above = below + unit < parts[i].range.end ? below + unit : next;
    return at - below <= above - at ? below : above;
}

}  // namespace

std::vector<ElementRange> split_range(ElementRange range, int parts, int64_t alignment) {
    const int64_t units = (range.size() + alignment - 1) / alignment;
    std::vector<ElementRange> out;
    for (int64_t p = 0; p < parts; ++p) {
        const auto at = [&](int64_t part) {
            return std::min(range.begin + units * part / parts * alignment, range.end);
        };
        out.push_back({at(p), at(p + 1)});
    }
    return out;
}

ShardLayout::ShardLayout(const std::vector<LayerPart>& parts, int64_t elements, int ranks)
    : ShardLayout(parts, elements, ranks, std::clamp(elements / 8, int64_t{1} << 18, int64_t{1} << 23)) {}

ShardLayout::ShardLayout(const std::vector<LayerPart>& parts, int64_t elements, int ranks, int64_t bucket_elements)
    : ranks_(ranks), elements_(elements) {
    check(!parts.empty() && parts.front().range.begin == 0, "ShardLayout: parts must begin with the buffer");
    // From the back, as backward goes; a bucket reaches from its first part to where the one behind it begins.
    int64_t end = elements, last_layer = parts.back().layer;
    size_t last = parts.size();  // parts of the bucket: [i, last)
    for (size_t i = parts.size(); i-- > 0;) {
        const bool first = i == 0;
        check(first || parts[i - 1].layer <= parts[i].layer, "ShardLayout: layers must ascend");
        // Not within a layer: it is ready as a whole.
        const bool layer_begins = first || parts[i - 1].layer != parts[i].layer;
        const int64_t begin = parts[i].range.begin;
        if (!first && (!layer_begins || end - begin < bucket_elements)) continue;
        buckets_.push_back({parts[i].layer, last_layer, split_range({begin, end}, ranks, kShardAlignment)});
        std::vector<ElementRange>& shards = buckets_.back().shards;
        for (size_t r = 1; r < shards.size(); ++r)
            shards[r - 1].end = shards[r].begin = nearest_cut(parts, i, last, end, shards[r].begin);
        end = begin, last = i;
        if (!first) last_layer = parts[i - 1].layer;
    }
}

std::vector<ElementRange> ShardLayout::owned(int rank) const {
    std::vector<ElementRange> ranges;
    for (size_t b = buckets_.size(); b-- > 0;) {
        const ElementRange shard = buckets_[b].shards[static_cast<size_t>(rank)];
        if (shard.size() == 0) continue;
        if (!ranges.empty() && ranges.back().end == shard.begin)
            ranges.back().end = shard.end;
        else
            ranges.push_back(shard);
    }
    return ranges;
}

}  // namespace plimsoll
