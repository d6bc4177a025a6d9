#include "kernels/cuda/sm90/attention_dq.cuh"
#include "kernels/cuda/sm90/launch.cuh"

namespace plimsoll::cuda {

void launch_sm90_dq(const QueryGradientArguments& arguments, Weighting weighting, int64_t HS, const Exec& exec) {
    dispatch_variant(weighting, [&]<class V>() {
        const auto launch = [&]<int kHS>() {
            launch_warpgroups<QueryGradient90<V, kHS>>(attention_dq_sm90_kernel<V, kHS>, arguments, exec.cuda->stream(),
                                                       exec, "attention_backward");
        };
        if (HS == 64) return launch.template operator()<64>();
        if (HS == 96) return launch.template operator()<96>();
        if (HS == 128) return launch.template operator()<128>();
        return launch.template operator()<256>();
    });
}

}  // namespace plimsoll::cuda
