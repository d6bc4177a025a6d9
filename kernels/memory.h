// Memory of a device, and copies between devices.
#pragma once

#include <memory>
#include <span>

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

// Host memory that a GPU copies from without the help of the CPU. Only with the CUDA backend.
struct FreePinned {
    void operator()(void* memory) const;
};
using PinnedMemory = std::unique_ptr<void, FreePinned>;
PinnedMemory allocate_pinned(int64_t bytes, const char* what);

// to = from, two contiguous tensors of one shape and dtype on any devices. Waits for the device's stream.
void copy_tensor(Tensor to, Tensor from, const Exec& exec);
// The same in the order of the device's stream, without waiting: host memory must be pinned, and stay as it is until a
// Fence recorded after the copy was passed.
void enqueue_copy(Tensor to, Tensor from, const Exec& exec);
// The same for bytes, one side of which is on the GPU. Only with the CUDA backend.
void enqueue_copy_bytes(void* to, const void* from, int64_t bytes, const Exec& exec);

// A rectangle of bytes: `height` rows of `width` bytes, the rows `pitch` bytes apart.
struct CopyRect {
    void* to = nullptr;
    int64_t to_pitch = 0;
    const void* from = nullptr;
    int64_t from_pitch = 0;
    int64_t width = 0, height = 1;
};
// All of them, which must not overlap, in the order of the device's stream: host to host on the CPU, device to device
// on a GPU.
void copy_rects(std::span<const CopyRect> rects, const Exec& exec);

// Waits for everything that was submitted; at once on the CPU.
void wait_for(const Exec& exec);

// A point in the device's stream that a host thread can wait for. Only with the CUDA backend.
class Fence {
  public:
    explicit Fence(const Exec& exec);
    ~Fence();
    Fence(const Fence&) = delete;
    void record();
    // Until everything that was submitted before record() is done; at once if it was never called.
    void wait() const;
    // Whether wait() would return at once. Any thread may ask.
    bool passed() const;

  private:
    struct Event;
    std::unique_ptr<Event> event_;
};

}  // namespace plimsoll
