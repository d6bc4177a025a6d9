#include "train/device.h"

namespace plimsoll {

RunDevice::RunDevice(const std::string& choice, int threads) {
    if (choice == "cuda" || (choice == "auto" && usable_gpus() > 0)) gpu_ = open_gpu();
    exec_ = {.device = gpu_ ? Device::kCuda : Device::kCpu, .threads = threads, .cuda = gpu_.get()};
}

std::string RunDevice::describe() const {
    return gpu_ ? describe_gpu(*gpu_) : "";
}

HostCopy::HostCopy(Tensor tensor, const Exec& exec) : host_(tensor) {
    if (!tensor || tensor.device == Device::kCpu) return;
    memory_ = allocate_memory(Device::kCpu, tensor.bytes(), "host copy");
    host_ = Tensor(memory_.get(), tensor.dtype, tensor.shape);
    copy_tensor(host_, tensor, exec);
}

}  // namespace plimsoll
