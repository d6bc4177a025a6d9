#include "train/device.h"

#include <algorithm>

namespace plimsoll {

RunDevice::RunDevice(const std::string& choice, int threads, int index) {
    const int gpus = choice == "cpu" ? 0 : usable_gpus();
    if (choice == "cuda" || gpus > 0) gpu_ = open_gpu(index % std::max(1, gpus));
    exec_ = {.device = gpu_ ? Device::kCuda : Device::kCpu, .threads = threads, .cuda = gpu_.get()};
}

std::string RunDevice::describe() const {
    return gpu_ ? describe_gpu(*gpu_) : "";
}

std::string RunDevice::address() const {
    return gpu_ ? gpu_address(*gpu_) : "";
}

DeviceIds::DeviceIds(std::span<const int32_t> values, const Exec& exec) : count_(values.size()) {
    const Shape shape{static_cast<int64_t>(count_)};
    memory_ = allocate_memory(exec.device, shape[0] * size_of(DType::kI32), "ids");
    copy_tensor(Tensor(memory_.get(), DType::kI32, shape, exec.device),
                Tensor(const_cast<int32_t*>(values.data()), DType::kI32, shape), exec);
}

HostCopy::HostCopy(Tensor tensor, const Exec& exec) : host_(tensor) {
    if (!tensor || tensor.device == Device::kCpu) return;
    memory_ = allocate_memory(Device::kCpu, tensor.bytes(), "host copy");
    host_ = Tensor(memory_.get(), tensor.dtype, tensor.shape);
    copy_tensor(host_, tensor, exec);
}

}  // namespace plimsoll
