// The device a run trains on, batches in its memory, and host copies of what lies there.
#pragma once

#include <memory>
#include <string>

#include "data/batch.h"
#include "kernels/gpu.h"
#include "kernels/memory.h"
#include "model/transformer.h"

namespace plimsoll {

class RunDevice {
  public:
    // "cpu"; "cuda", or Error (78) why there is none; "auto": a GPU where build and machine have one.
    RunDevice(const std::string& choice, int threads);
    const Exec& exec() const { return exec_; }
    bool is_gpu() const { return exec_.device == Device::kCuda; }
    // "NVIDIA H200, sm_90, 132 multiprocessors"; empty on the CPU.
    std::string describe() const;

  private:
    std::shared_ptr<cuda::Context> gpu_;
    Exec exec_;
};

// A micro batch where the device can read it.
class DeviceBatch {
  public:
    // For up to `tokens` tokens. Allocates on a GPU, nothing on the CPU.
    DeviceBatch(int64_t tokens, const Exec& exec);
    // On the CPU views of the batch itself, on a GPU of a copy: valid while the batch lives and until the next call.
    ModelInput put(const ModelInput& host);
    ModelInput put(const Batch& batch);

  private:
    int64_t capacity_;
    Exec exec_;
    Memory memory_;
};

// The same values in host memory: the tensor itself on the CPU, else a copy.
class HostCopy {
  public:
    HostCopy(Tensor tensor, const Exec& exec);
    Tensor tensor() const { return host_; }

  private:
    Memory memory_;
    Tensor host_;
};

}  // namespace plimsoll
