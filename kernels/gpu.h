// GPUs, for code that knows no CUDA: whether there are any, opening one, its name.
#pragma once

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

}  // namespace plimsoll
