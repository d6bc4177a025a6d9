#include "dist/gradient_sync.h"

#include <limits>

#include "kernels/error.h"

namespace plimsoll {

GradientSync::GradientSync(Communicator& group, Tensor gradients, ShardLayout layout)
    : group_(group), gradients_(gradients), layout_(std::move(layout)), buckets_(layout_.buckets().size()) {
    check(layout_.ranks() == group.size(), "GradientSync: a layout for {} ranks in a group of {}", layout_.ranks(),
          group.size());
}

void GradientSync::on_ready(int64_t layer) {
    for (size_t b = 0; b < buckets_.size(); ++b) {
        const ShardLayout::Bucket& here = layout_.buckets()[b];
        if (buckets_[b].started || here.first_layer < layer) continue;
        buckets_[b].sum = group_.reduce_scatter(gradients_, here.shards);
        buckets_[b].started = true;
    }
}

void GradientSync::finish_sums() {
    for (size_t b = 0; b < buckets_.size(); ++b)
        check(buckets_[b].started, "GradientSync: layer {} was never ready", layout_.buckets()[b].first_layer);
    for (Bucket& bucket : buckets_) {
        bucket.sum.wait();
        bucket.started = false;
    }
}

void GradientSync::gather(std::vector<Tensor> buffers) {
    for (size_t b = buckets_.size(); b-- > 0;)
        for (const Tensor& buffer : buffers)
            if (buffer) buckets_[b].gathers.push_back(group_.all_gather(buffer, layout_.buckets()[b].shards));
}

void GradientSync::await(int64_t layer) {
    for (size_t b = buckets_.size(); b-- > 0 && layout_.buckets()[b].first_layer <= layer;) {
        for (Work& gather : buckets_[b].gathers) gather.wait();
        buckets_[b].gathers.clear();
    }
}

void GradientSync::await_all() {
    await(std::numeric_limits<int64_t>::max());
}

}  // namespace plimsoll
