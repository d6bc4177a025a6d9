#include "kernels/cuda/context.h"

#include <algorithm>

#include "kernels/cuda/attention_wide.h"
#include "kernels/gemm_choices.h"
#include "kernels/global_norm.h"

namespace plimsoll::cuda {
namespace {

constexpr int kOldestArchitecture = 80;
constexpr int64_t kSmallestWorkspace = int64_t{32} << 20;

const char* hint_for(cudaError_t error) {
    switch (error) {
        case cudaErrorMemoryAllocation:
            return "; a smaller train.micro_batch needs less (plimsoll plan shows how much)";
        case cudaErrorNoDevice:
            return "; no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES), --set run.device=cpu runs without";
        case cudaErrorInsufficientDriver:
            return "; update the NVIDIA driver, or use a build made with an older toolkit";
        case cudaErrorNoKernelImageForDevice:
            return "; this build has no code for this GPU: configure with its CMAKE_CUDA_ARCHITECTURES";
        default:
            return "";
    }
}

}  // namespace

void check_cuda(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // or the next check would see it again
    const bool usable = error != cudaErrorNoDevice && error != cudaErrorInsufficientDriver &&
                        error != cudaErrorNoKernelImageForDevice && error != cudaErrorMemoryAllocation;
    throw Error(
        usable ? ExitCode::kInternal : ExitCode::kBadInput,
        fmt::format("CUDA, {}: {} ({}){}", what, cudaGetErrorString(error), cudaGetErrorName(error), hint_for(error)));
}

void* allocate(int64_t bytes, const char* what) {
    void* data = nullptr;
    const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        size_t left = 0, total = 0;
        check_cuda(cudaMemGetInfo(&left, &total), "cudaMemGetInfo");
        fail_input("{}: {} MiB of GPU memory wanted, {} of {} MiB are free{}", what, bytes >> 20, left >> 20,
                   total >> 20, hint_for(error));
    }
    check_cuda(error, "cudaMalloc");
    return data;
}

int64_t workspace_bytes(const ScratchSizes& s) {
    const int64_t attention = s.value_size == s.head_size
                                  ? attention_bytes(s.tokens, s.heads)
                                  : wide_attention_bytes(s.tokens, s.tokens, s.heads, s.key_heads, s.head_size);
    return std::max({
        kSmallestWorkspace, attention,
        (3 * s.tokens + 1024) * size_of(DType::kI32),           // embedding_backward
        kRowRanges * s.columns * size_of(DType::kF32),          // row_sums
        (s.parameters / kNormBlock + 2) * size_of(DType::kF64)  // sum_of_squares
    });
}

Context::Context(int index) {
    int driver = 0, runtime = 0, devices = 0;
    check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    check_cuda(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion");
    if (driver == 0) fail_input("no NVIDIA driver; --set run.device=cpu runs without a GPU");
    if (driver / 1000 < runtime / 1000)
        fail_input("the NVIDIA driver supports CUDA {}.{}, this build needs {}.{}: update the driver", driver / 1000,
                   driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    check_cuda(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (index < 0 || index >= devices) fail_input("GPU {} wanted, {} are visible", index, devices);
    check_cuda(cudaSetDevice(index), "cudaSetDevice");
    cudaDeviceProp properties;
    check_cuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    index_ = index;
    name_ = properties.name;
    multiprocessors_ = properties.multiProcessorCount;
    architecture_ = 10 * properties.major + properties.minor;
    if (architecture_ < kOldestArchitecture)
        fail_input("GPU '{}' is sm_{}, plimsoll's kernels need sm_{} (Ampere) or later", name_, architecture_,
                   kOldestArchitecture);
    reserve(kSmallestWorkspace);
    library_workspace_ = DeviceMemory(kLibraryWorkspace, "workspace of cuBLASLt");
    for (cudaStream_t* stream : {&stream_, &branch_}) check_cuda(cudaStreamCreate(stream), "cudaStreamCreate");
    for (cudaEvent_t* event : {&forked_, &joined_})
        check_cuda(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
}

Context::~Context() {
    for (cudaEvent_t event : {forked_, joined_}) cudaEventDestroy(event);
    for (cudaStream_t stream : {branch_, stream_}) cudaStreamDestroy(stream);
}

cudaStream_t Context::fork() const {
    check_cuda(cudaEventRecord(forked_, stream_), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(branch_, forked_, 0), "cudaStreamWaitEvent");
    return branch_;
}

void Context::join() const {
    check_cuda(cudaEventRecord(joined_, branch_), "cudaEventRecord");
    check_cuda(cudaStreamWaitEvent(stream_, joined_, 0), "cudaStreamWaitEvent");
}

void Context::reserve(int64_t bytes) {
    if (bytes <= workspace_size_) return;
    workspace_ = {};
    workspace_ = DeviceMemory(bytes, "workspace");
    workspace_size_ = bytes;
}

void Context::set_gemm_choices(std::unique_ptr<GemmChoices> choices) {
    gemm_choices_ = std::move(choices);
}

void* Context::take_workspace(int64_t bytes) const {
    check(bytes <= workspace_size_, "an op wants {} bytes of CUDA workspace, {} were reserved", bytes, workspace_size_);
    return workspace_.data();
}

void Context::synchronize() const {
    check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

}  // namespace plimsoll::cuda
