// Which calls of attention's forward the kernels of sm90/ take, and their launch.
#include "kernels/cuda/attention_forward_sm90.h"

#include "kernels/cuda/sm90/attention_forward.cuh"
#include "kernels/cuda/sm90/launch.cuh"

namespace plimsoll::cuda {

bool takes_sm90_forward(const AttentionTensors& t, const AttentionSpec& spec, const Exec& exec) {
    return is_for_sm90(t, spec, exec) && forward_tile(t.q.shape[2]).exists();
}

void attention_forward_sm90(const AttentionTensors& t, const AttentionTables& tables, const AttentionSpec& spec,
                            const Exec& exec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1], HS = t.q.shape[2];
    const ForwardTile tile = forward_tile(HS);
    const ForwardArguments90 arguments{
        forward_call(t, spec),
        map_heads(t.q, "q", kGroupRows),
        map_heads(t.k, "k", tile.keys),
        map_heads(t.v, "v", tile.keys),
        map_heads(t.out, "out", kGroupRows),
        query_schedule(N, HS, static_cast<int>(NH), static_cast<int>(NH / t.k.shape[1]), tile.queries),
        tables.first,
        tables.end};
    dispatch_variant(spec.weighting, [&]<class V>() {
        const auto launch = [&]<int kHS>() {
            launch_warpgroups<Forward90<V, kHS>>(attention_forward_sm90_kernel<V, kHS>, arguments, exec.cuda->stream(),
                                                 exec, "attention_forward");
        };
        if (HS == 64) return launch.template operator()<64>();
        if (HS == 96) return launch.template operator()<96>();
        if (HS == 128) return launch.template operator()<128>();
        return launch.template operator()<256>();
    });
}

}  // namespace plimsoll::cuda
