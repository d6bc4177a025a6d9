#include "train/device.h"

#include <array>

namespace plimsoll {

RunDevice::RunDevice(const std::string& choice, int threads) {
    if (choice == "cuda" || (choice == "auto" && usable_gpus() > 0)) gpu_ = open_gpu();
    exec_ = {.device = gpu_ ? Device::kCuda : Device::kCpu, .threads = threads, .cuda = gpu_.get()};
}

std::string RunDevice::describe() const {
    return gpu_ ? describe_gpu(*gpu_) : "";
}

// Tokens, targets, positions, then document bounds (one more than there are documents).
DeviceBatch::DeviceBatch(int64_t tokens, const Exec& exec) : capacity_(tokens), exec_(exec) {
    if (exec.device != Device::kCpu)
        memory_ = allocate_memory(exec.device, (4 * tokens + 1) * size_of(DType::kI32), "batch");
}

ModelInput DeviceBatch::put(const Batch& batch) {
    return put(ModelInput{batch.tokens, batch.targets, batch.positions, batch.cu_seqlens});
}

ModelInput DeviceBatch::put(const ModelInput& host) {
    if (exec_.device == Device::kCpu) return host;
    check(static_cast<int64_t>(host.tokens.size()) <= capacity_, "a batch of {} tokens, room for {}",
          host.tokens.size(), capacity_);
    const std::array parts{host.tokens, host.targets, host.positions, host.cu_seqlens};
    std::array<std::span<const int32_t>, 4> there;
    for (size_t i = 0; i < parts.size(); ++i) {
        int32_t* to = static_cast<int32_t*>(memory_.get()) + static_cast<int64_t>(i) * capacity_;
        const Shape shape{static_cast<int64_t>(parts[i].size())};
        copy_tensor(Tensor(to, DType::kI32, shape, exec_.device),
                    Tensor(const_cast<int32_t*>(parts[i].data()), DType::kI32, shape), exec_);
        there[i] = {to, parts[i].size()};
    }
    return {there[0], there[1], there[2], there[3]};
}

HostCopy::HostCopy(Tensor tensor, const Exec& exec) : host_(tensor) {
    if (!tensor || tensor.device == Device::kCpu) return;
    memory_ = allocate_memory(Device::kCpu, tensor.bytes(), "host copy");
    host_ = Tensor(memory_.get(), tensor.dtype, tensor.shape);
    copy_tensor(host_, tensor, exec);
}

}  // namespace plimsoll
