// The device a run uses: its stream, its scratch memory, what it can do.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <string>

#include "kernels/exec.h"
#include "kernels/gpu.h"

namespace plimsoll {
class GemmChoices;
}

namespace plimsoll::cuda {

// Throws Error with the call's name, the runtime's message and a hint if `error` is one.
void check_cuda(cudaError_t error, const char* what);

// Device memory, for `what`. Throws Error (78) if there is not enough: sizes wanted and left.
void* allocate(int64_t bytes, const char* what);

// The same, freed with its owner. Null for 0 bytes.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    explicit DeviceMemory(int64_t bytes, const char* what = "device memory")
        : data_(bytes ? allocate(bytes, what) : nullptr) {}
    void* data() const { return data_.get(); }

  private:
    struct Free {
        void operator()(void* pointer) const { cudaFree(pointer); }
    };
    std::unique_ptr<void, Free> data_;
};

// Sums over rows are made in this many ranges, then range by range: part of the numerics, so a constant.
inline constexpr int kRowRanges = 128;

// What the ops of a network of these sizes need of the context's workspace.
int64_t workspace_bytes(const ScratchSizes& sizes);

class Context {
  public:
    // Opens device `index`. Throws Error (78), one line each, if there is no driver, the driver is older than the
    // toolkit, there is no such device, or its architecture is older than sm_80.
    explicit Context(int index = 0);
    ~Context();
    Context(const Context&) = delete;

    cudaStream_t stream() const { return stream_; }
    // A second stream, whose work may run beside stream()'s: from fork() on, after everything that stream() was given
    // before, and before what it is given after join(). An op forks and joins; graphs record both as branches.
    cudaStream_t fork() const;
    void join() const;
    // `bytes` of device memory with unspecified contents, for one op: the next op that asks gets the same. 256-byte
    // aligned. Throws Error if the context has less: see reserve().
    template <class T>
    T* workspace(int64_t count) const {
        return static_cast<T*>(take_workspace(count * static_cast<int64_t>(sizeof(T))));
    }
    // Makes the workspace at least this large. Not within a step.
    void reserve(int64_t bytes);

    // Scratch memory of cuBLASLt: kLibraryWorkspace bytes.
    static constexpr int64_t kLibraryWorkspace = int64_t{32} << 20;  // what NVIDIA recommends for Hopper
    void* library_workspace() const { return library_workspace_.data(); }

    // Where the algorithms of products are kept; null: the library's first choice.
    GemmChoices* gemm_choices() const { return gemm_choices_.get(); }
    void set_gemm_choices(std::unique_ptr<GemmChoices> choices);

    int index() const { return index_; }
    int multiprocessors() const { return multiprocessors_; }
    int architecture() const { return architecture_; }  // 80, 90 ...
    const std::string& name() const { return name_; }

    // Waits for everything that was submitted; throws what went wrong on the device.
    void synchronize() const;

  private:
    void* take_workspace(int64_t bytes) const;

    std::string name_;
    int index_ = 0, multiprocessors_ = 0, architecture_ = 0;
    cudaStream_t stream_ = nullptr, branch_ = nullptr;
    cudaEvent_t forked_ = nullptr, joined_ = nullptr;
    DeviceMemory workspace_, library_workspace_;
    int64_t workspace_size_ = 0;
    std::unique_ptr<GemmChoices> gemm_choices_;
};

}  // namespace plimsoll::cuda
