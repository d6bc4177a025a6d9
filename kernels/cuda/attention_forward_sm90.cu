// Which calls of attention's forward the kernels of sm90/ take, and their launch.
#include "kernels/cuda/attention_forward_sm90.h"

#include <algorithm>

#include "kernels/cuda/sm90/attention_forward.cuh"
#include "kernels/cuda/tensor_map.h"

namespace plimsoll::cuda {
namespace {

template <class V, int HS>
void launch(const ForwardArguments90& arguments, const Exec& exec) {
    using Forward = Forward90<V, HS>;
    check_cuda(cudaFuncSetAttribute(attention_forward_sm90_kernel<V, HS>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    Forward::kSharedBytes),
               "attention_forward");
    const int blocks = std::min(exec.cuda->multiprocessors(), arguments.schedule.count());
    PLIMSOLL_LAUNCH((attention_forward_sm90_kernel<V, HS>), dim3(static_cast<unsigned>(blocks)),
                    dim3(Forward::kThreads), Forward::kSharedBytes, exec.cuda->stream(), arguments);
    launch_check("attention_forward");
}

}  // namespace

bool takes_sm90_forward(const AttentionTensors& t, const AttentionSpec& spec, const Exec& exec) {
    return exec.cuda->architecture() == 90 && forward_tile(t.q.shape[2]).exists() && spec.scale > 0 &&
           !MaskRule<int32_t>(spec).patterned();
}

void attention_forward_sm90(const AttentionTensors& t, const AttentionTables& tables, const AttentionSpec& spec,
                            const Exec& exec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1], HS = t.q.shape[2];
    const ForwardTile tile = forward_tile(HS);
    const auto map = [&](const Tensor& tensor, const char* name, int rows) {
        check_attention_layout(tensor, name);
        return make_tensor_map(head_tiles(tensor.data, N, tensor.shape[1], HS, tensor.row_stride, rows));
    };
    const ForwardArguments90 arguments{
        forward_call(t, spec),
        map(t.q, "q", kGroupRows),
        map(t.k, "k", tile.keys),
        map(t.v, "v", tile.keys),
        map(t.out, "out", kGroupRows),
        forward_schedule(N, HS, static_cast<int>(NH), static_cast<int>(NH / t.k.shape[1])),
        tables.first,
        tables.end};
    dispatch_variant(spec.weighting, [&]<class V>() {
        if (HS == 64) return launch<V, 64>(arguments, exec);
        if (HS == 96) return launch<V, 96>(arguments, exec);
        if (HS == 128) return launch<V, 128>(arguments, exec);
        return launch<V, 256>(arguments, exec);
    });
}

}  // namespace plimsoll::cuda
