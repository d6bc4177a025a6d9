// How flat buffers of parameters and gradients are cut for ranks that share them.
#pragma once

#include <cstdint>
#include <vector>

namespace plimsoll {

// Elements [begin, end) of a flat tensor.
struct ElementRange {
    int64_t begin = 0;
    int64_t end = 0;
    int64_t size() const { return end - begin; }
};

// [begin, end) in `parts` ranges of whole multiples of `alignment` elements, as equal as that allows; the last ones may
// be empty.
std::vector<ElementRange> split_range(ElementRange range, int parts, int64_t alignment);

// Where a parameter lies in the flat buffers, and the layer it belongs to.
struct LayerPart {
    ElementRange range;
    int64_t layer;
    int64_t unit = 1;  // elements that one rank must own together, counted from the range's begin
};

// The flat buffer in buckets of whole neighbouring layers, every bucket in one shard for each rank: as equal as the
// parts' units allow, so that where those are large a shard may be empty. A function of the arguments alone, so it is
// equal on every rank, and in a process that computes what several ranks would.
class ShardLayout {
  public:
    struct Bucket {
        int64_t first_layer, last_layer;   // both included
        std::vector<ElementRange> shards;  // by rank
    };

    // `parts` in the buffer's order, layers ascending; they and the gaps between them are all of the buffer's
    // `elements`. Throws Error if they are not.
    ShardLayout(const std::vector<LayerPart>& parts, int64_t elements, int ranks, int64_t bucket_elements);
    // With buckets of an eighth of the buffer, so that most of their traffic hides under computing, but of 1 MiB to
    // 32 MiB of fp32, so that each is worth its latency.
    ShardLayout(const std::vector<LayerPart>& parts, int64_t elements, int ranks);

    int ranks() const { return ranks_; }
    int64_t elements() const { return elements_; }
    // In the order backward finishes them: from the end of the buffer to its beginning.
    const std::vector<Bucket>& buckets() const { return buckets_; }
    // A rank's shards of all buckets, ascending, neighbours merged: of one rank, the whole buffer.
    std::vector<ElementRange> owned(int rank) const;

  private:
    int ranks_;
    int64_t elements_;
    std::vector<Bucket> buckets_;
};

}  // namespace plimsoll
