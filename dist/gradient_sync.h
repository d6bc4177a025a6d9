// Gradients summed over ranks while backward still runs.
#pragma once

#include <vector>

#include "dist/communicator.h"

namespace plimsoll {

// Where a layer's gradients lie in the flat buffer.
struct GradientPart {
    ElementRange range;
    int64_t layer;
};

// The flat gradient buffer in buckets: neighbouring parts, at least `bucket_elements` together. A bucket is summed as
// soon as backward has finished its last layer, each rank its shard, in rank order; then every rank gets every shard.
class GradientSync {
  public:
    // `parts` in the buffer's order, layers ascending; they and the gaps between them are all of the buffer. `world`
    // and the buffer must outlive this.
    GradientSync(Communicator& world, Tensor gradients, const std::vector<GradientPart>& parts,
                 int64_t bucket_elements = int64_t{8} << 20);

    // Backward has finished this layer, for the last time in this step. Layers come in descending order.
    void on_ready(int64_t layer);
    // Waits until every rank has every sum. All layers were ready.
    void finish();
    size_t buckets() const { return buckets_.size(); }

  private:
    struct Bucket {
        int64_t layer;  // the last one backward finishes
        std::vector<ElementRange> shards;
        Work work;
        bool started = false;
    };

    Communicator& world_;
    Tensor gradients_;
    std::vector<Bucket> buckets_;  // in the order backward finishes them
};

}  // namespace plimsoll
