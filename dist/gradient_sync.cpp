#include "dist/gradient_sync.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr int64_t kShardAlignment = 16;  // elements: a cache line of fp32

}  // namespace

GradientSync::GradientSync(Communicator& world, Tensor gradients, const std::vector<GradientPart>& parts,
                           int64_t bucket_elements)
    : world_(world), gradients_(gradients) {
    check(!parts.empty() && parts.front().range.begin == 0, "GradientSync: parts must begin with the buffer");
    // From the back, as backward goes; a bucket reaches from its first part to where the one behind it begins.
    int64_t end = gradients.shape[0];
    for (size_t i = parts.size(); i-- > 0;) {
        const bool last = i == 0;
        check(last || parts[i - 1].layer <= parts[i].layer, "GradientSync: layers must ascend");
        // Not within a layer: it is ready as a whole.
        const bool layer_begins = last || parts[i - 1].layer != parts[i].layer;
        if (!last && (!layer_begins || end - parts[i].range.begin < bucket_elements)) continue;
        const int64_t begin = parts[i].range.begin;
        buckets_.push_back(
            {.layer = parts[i].layer, .shards = split_range({begin, end}, world.size(), kShardAlignment), .work = {}});
        end = begin;
    }
}

void GradientSync::on_ready(int64_t layer) {
    for (Bucket& bucket : buckets_) {
        if (bucket.started || bucket.layer < layer) continue;
        bucket.work = world_.reduce_scatter(gradients_, bucket.shards);
        bucket.started = true;
    }
}

void GradientSync::finish() {
    for (const Bucket& bucket : buckets_) check(bucket.started, "GradientSync: layer {} was never ready", bucket.layer);
    std::vector<Work> gathers;
    for (Bucket& bucket : buckets_) {
        bucket.work.wait();
        gathers.push_back(world_.all_gather(gradients_, bucket.shards));
        bucket.started = false;
    }
    for (Work& gather : gathers) gather.wait();
}

}  // namespace plimsoll
