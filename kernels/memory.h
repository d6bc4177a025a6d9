// Memory of a device, and copies between devices.
#pragma once

#include <memory>

#include "kernels/exec.h"

namespace plimsoll {

// Frees what allocate_memory() gave.
struct FreeMemory {
    Device device = Device::kCpu;
    void operator()(void* memory) const;
};
using Memory = std::unique_ptr<void, FreeMemory>;

// `bytes` with unspecified contents: on the CPU 2 MiB aligned and asking for huge pages, on a GPU 256-byte aligned.
// Null for 0 bytes. Throws Error if there is not enough; `what` names the use ("arena 'activations'").
Memory allocate_memory(Device device, int64_t bytes, const char* what);

// Sets bytes of a device's memory to one value. For start-up, not for steps: it waits for the device.
void set_memory(Device device, void* memory, int value, int64_t bytes);

// to = from, two contiguous tensors of one shape and dtype on any devices. Waits for the device's stream.
void copy_tensor(Tensor to, Tensor from, const Exec& exec);

}  // namespace plimsoll
