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
    return exec.cuda->architecture() == 90 && forward_tile(t.q.shape[2]).exists() && spec.scale > 0 && !t.key_bias &&
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
        .q = map(t.q, "q", kGroupRows),
        .k = map(t.k, "k", tile.keys),
        .v = map(t.v, "v", tile.keys),
        .out = map(t.out, "out", kGroupRows),
        .lse = optional<float>(t.lse),
        .sink_logit = spec.extra_column == ExtraColumn::kLearnedLogit ? t.sink_logit.ptr<float>() : nullptr,
        .score_bias = optional<float>(t.score_bias),
        .extra_logit = spec.extra_column == ExtraColumn::kConstant ? static_cast<float>(spec.extra_logit) : kLowest,
        .gate = optional<bf16>(t.gate),
        .group = static_cast<int>(NH / t.k.shape[1]),
        .N = static_cast<int32_t>(N),
        .schedule = forward_schedule(N, HS, static_cast<int>(NH), static_cast<int>(NH / t.k.shape[1])),
        .first = tables.first,
        .end = tables.end,
        .mask = make_mask(spec, NH)};
    dispatch_variant(spec.weighting, [&]<class V>() {
        if (HS == 64) return launch<V, 64>(arguments, exec);
        if (HS == 96) return launch<V, 96>(arguments, exec);
        if (HS == 128) return launch<V, 128>(arguments, exec);
        return launch<V, 256>(arguments, exec);
    });
}

}  // namespace plimsoll::cuda
