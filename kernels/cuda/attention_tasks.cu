#include "kernels/attention_tasks.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

void attention_tasks_forward(const AttentionTensors& /*t*/, const AttentionTasks& /*tasks*/,
                             const AttentionSpec& /*spec*/, const Exec& /*exec*/) {
    fail_input("attention of tasks has no CUDA kernels");
}

void attention_tasks_backward(const AttentionTensors& /*d*/, const AttentionTensors& /*t*/, Tensor /*delta*/,
                              const AttentionTasks& /*tasks*/, const AttentionSpec& /*spec*/, const Exec& /*exec*/) {
    fail_input("attention of tasks has no CUDA kernels");
}

void attention_backward_rows(const AttentionTensors& /*d*/, Tensor /*delta*/, const AttentionTensors& /*t*/,
                             std::span<const int32_t> /*cu_seqlens*/, const AttentionSpec& /*spec*/, Write /*write*/,
                             const Exec& /*exec*/) {
    fail_input("attention of tasks has no CUDA kernels");
}

}  // namespace plimsoll::cuda
