// The device a run trains on, and host copies of what lies there.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "kernels/gpu.h"
#include "kernels/memory.h"

namespace plimsoll {

class RunDevice {
  public:
    // "cpu"; "cuda", or Error (78) why there is none; "auto": a GPU where build and machine have one. With several GPUs
    // process `index` of the machine takes that one, counting around: find_shared_devices says who shares one.
    RunDevice(const std::string& choice, int threads, int index = 0);
    const Exec& exec() const { return exec_; }
    bool is_gpu() const { return exec_.device == Device::kCuda; }
    // "NVIDIA H200, sm_90, 132 multiprocessors"; empty on the CPU.
    std::string describe() const;
    // "0000:65:00.0", where it is plugged in; empty on the CPU.
    std::string address() const;

  private:
    std::shared_ptr<cuda::Context> gpu_;
    Exec exec_;
};

// Ids where ops read them: a copy, on every device.
class DeviceIds {
  public:
    DeviceIds(std::span<const int32_t> values, const Exec& exec);
    operator std::span<const int32_t>() const { return {static_cast<const int32_t*>(memory_.get()), count_}; }

  private:
    size_t count_;
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
