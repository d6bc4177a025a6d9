// GPUs, for code that knows no CUDA: whether there are any, opening one, its name.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernels/exec.h"

namespace plimsoll {

// Whether this build has the CUDA backend.
bool has_cuda_backend();
// How many GPUs a run could use: 0 without the backend, a driver that is new enough, or a GPU.
int usable_gpus();
// Opens a GPU. Throws Error (78), one clear line, if that cannot be done.
std::shared_ptr<cuda::Context> open_gpu(int index = 0);
// "NVIDIA H200, sm_90, 132 multiprocessors".
std::string describe_gpu(const cuda::Context& gpu);
// "0000:65:00.0": where it is plugged in, the same for every process of the machine.
std::string gpu_address(const cuda::Context& gpu);

// From now on products are computed by the algorithms that the file `path` keeps for this card, library and driver, and
// the ones it lacks are measured when they are first wanted and written there (kernels/gemm_choices.h). Trouble with
// the file is told to `warn`, which must outlive the GPU. Nothing on the CPU. Not within a step.
void keep_gemm_algorithms(const std::string& path, std::function<void(const std::string&)> warn, const Exec& exec);

// Bytes of a GPU's memory that nobody has taken; 0 on the CPU.
int64_t free_gpu_memory(const Exec& exec);
// Bytes of a GPU's memory; 0 on the CPU.
int64_t gpu_memory(const Exec& exec);

// The sizes that say how much scratch memory the ops of a network need on a GPU.
struct ScratchSizes {
    int64_t tokens = 0;  // at once
    int64_t heads = 0;   // of queries
    int64_t key_heads = 0;
    int64_t head_size = 0;   // channels of queries and keys
    int64_t value_size = 0;  // and of values
    int64_t columns = 0;     // of the widest activation
    int64_t parameters = 0;  // elements
};
// Bytes the CUDA backend takes beside what its caller allocates: scratch of the ops and of cuBLASLt. 0 on the CPU.
int64_t gpu_scratch_bytes(const ScratchSizes& sizes, const Exec& exec);
// Allocates them, so that no op finds too little. Not within a step.
void reserve_gpu_scratch(const ScratchSizes& sizes, const Exec& exec);

}  // namespace plimsoll
