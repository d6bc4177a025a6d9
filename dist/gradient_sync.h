// Gradients summed over ranks while backward still runs, and what they updated gathered while forward already runs.
#pragma once

#include <vector>

#include "dist/communicator.h"
#include "dist/shard_layout.h"

namespace plimsoll {

// The traffic of data-parallel ranks, bucket by bucket. In a step: on_ready() for every layer, finish_sums(), then
// gather() of what each rank made of its shards, and await() before a layer's values are read.
class GradientSync {
  public:
    // `group` and the buffer must outlive this. Sums are in rank order, so their bits depend on the layout alone.
    GradientSync(Communicator& group, Tensor gradients, ShardLayout layout);

    // Backward has finished this layer, for the last time in this step. Layers come in descending order.
    void on_ready(int64_t layer);
    // Waits until this rank's shards are the sums over ranks. All layers were ready.
    void finish_sums();
    // Begins to give every rank all shards of these flat buffers, in the order forward reads them.
    void gather(std::vector<Tensor> buffers);
    // Waits until all that was gathered is there, up to this layer.
    void await(int64_t layer);
    void await_all();

    const ShardLayout& layout() const { return layout_; }

  private:
    struct Bucket {
        Work sum;
        bool started = false;
        std::vector<Work> gathers;
    };

    Communicator& group_;
    Tensor gradients_;
    ShardLayout layout_;
    std::vector<Bucket> buckets_;  // as layout_.buckets()
};

}  // namespace plimsoll
