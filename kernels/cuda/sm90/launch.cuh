// Launches of the kernels of sm_90a: their tiles of heads, and blocks that stay.
#pragma once

#include <algorithm>

#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/tensor_map.h"

namespace plimsoll::cuda {

// Whether the kernels of sm_90a know a call's device, mask and scale; they know no biases of keys.
inline bool is_for_sm90(const AttentionTensors& t, const AttentionSpec& spec, const Exec& exec) {
    return exec.cuda->architecture() == 90 && spec.scale > 0 && !t.key_bias && !MaskRule<int32_t>(spec).patterned();
}

// Tiles of `rows` rows of each head of (N, heads, HS).
inline device::TensorMap map_heads(const Tensor& t, const char* name, int rows) {
    check_attention_layout(t, name);
    return make_tensor_map(head_tiles(t.data, t.shape[0], t.shape[1], t.shape[2], t.row_stride, rows));
}

// One block per multiprocessor, no more than there are pieces of work.
template <class Shape, class Kernel, class Arguments>
void launch_warpgroups(Kernel* kernel, const Arguments& arguments, cudaStream_t stream, const Exec& exec,
                       const char* op) {
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes), op);
    const int blocks = std::min(exec.cuda->multiprocessors(), arguments.schedule.count());
    PLIMSOLL_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Shape::kThreads), Shape::kSharedBytes, stream,
                    arguments);
    launch_check(op);
}

}  // namespace plimsoll::cuda
