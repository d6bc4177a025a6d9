#include "kernels/cuda/sm90/attention_dkv.cuh"
#include "kernels/cuda/sm90/launch.cuh"

namespace plimsoll::cuda {

void launch_sm90_dkv(const KeyGradientArguments& arguments, Weighting weighting, int64_t HS, cudaStream_t stream,
                     const Exec& exec) {
    dispatch_variant(weighting, [&]<class V>() {
        const auto launch = [&]<int kHS>() {
            launch_warpgroups<KeyGradient90<V, kHS>>(attention_dkv_sm90_kernel<V, kHS>, arguments, stream, exec,
                                                     "attention_backward");
        };
        if (HS == 64) return launch.template operator()<64>();
        if (HS == 96) return launch.template operator()<96>();
        return launch.template operator()<128>();
    });
}

}  // namespace plimsoll::cuda
