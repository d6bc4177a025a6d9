// The device a run trains on, and host copies of what lies there.
#pragma once

#include <memory>
#include <string>

#include "kernels/gpu.h"
#include "kernels/memory.h"

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
