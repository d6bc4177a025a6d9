// Devices and their memory.
#include <cstdlib>
#include <cstring>

#include "kernels/dispatch.h"
#include "kernels/gemm_choices.h"
#include "kernels/gpu.h"
#include "kernels/huge_pages.h"
#include "kernels/memory.h"
#ifdef PLIMSOLL_CUDA
#include "kernels/cuda/gemm.h"
#endif

namespace plimsoll {
namespace {

Memory allocate_on_host(int64_t bytes, const char* what) {
    Memory memory(allocate_huge_pages(bytes), {Device::kCpu});
    if (!memory)
        throw Error(ExitCode::kInternal, fmt::format("{}: cannot allocate {} MiB; lower train.micro_batch (plimsoll "
                                                     "plan CONFIG prints what fits)",
                                                     what, bytes >> 20));
    return memory;
}

}  // namespace

#ifdef PLIMSOLL_CUDA

void FreeMemory::operator()(void* memory) const {
    device == Device::kCuda ? static_cast<void>(cudaFree(memory)) : std::free(memory);
}

Memory allocate_memory(Device device, int64_t bytes, const char* what) {
    if (bytes == 0) return {};
    if (device == Device::kCpu) return allocate_on_host(bytes, what);
    return Memory(cuda::allocate(bytes, what), {device});
}

void set_memory(Device device, void* memory, int value, int64_t bytes) {
    if (device == Device::kCpu) {
        std::memset(memory, value, static_cast<size_t>(bytes));
        return;
    }
    cuda::check_cuda(cudaMemsetAsync(memory, value, static_cast<size_t>(bytes), nullptr), "set_memory");
    cuda::check_cuda(cudaStreamSynchronize(nullptr), "set_memory");
}

void FreePinned::operator()(void* memory) const {
    cudaFreeHost(memory);
}

PinnedMemory allocate_pinned(int64_t bytes, const char* what) {
    void* memory = nullptr;
    cuda::check_cuda(cudaMallocHost(&memory, static_cast<size_t>(bytes)), what);
    return PinnedMemory(memory);
}

struct Fence::Event {
    cudaStream_t stream;
    cudaEvent_t event = nullptr;
    ~Event() { cudaEventDestroy(event); }
};

Fence::Fence(const Exec& exec) : event_(std::make_unique<Event>()) {
    event_->stream = exec.cuda->stream();
    cuda::check_cuda(cudaEventCreate(&event_->event), "cudaEventCreate");
}

void Fence::record() {
    cuda::check_cuda(cudaEventRecord(event_->event, event_->stream), "cudaEventRecord");
}

void Fence::wait() const {
    cuda::check_cuda(cudaEventSynchronize(event_->event), "waiting for the GPU");
}

bool Fence::passed() const {
    const cudaError_t error = cudaEventQuery(event_->event);
    if (error == cudaErrorNotReady) return false;
    cuda::check_cuda(error, "asking the GPU");
    return true;
}

void enqueue_copy_bytes(void* to, const void* from, int64_t bytes, const Exec& exec) {
    cuda::check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, exec.cuda->stream()),
                     "copy");
}

bool has_cuda_backend() {
    return true;
}

int usable_gpus() {
    int driver = 0, runtime = 0, devices = 0;
    const bool answered = cudaDriverGetVersion(&driver) == cudaSuccess &&
                          cudaRuntimeGetVersion(&runtime) == cudaSuccess && driver / 1000 >= runtime / 1000 &&
                          cudaGetDeviceCount(&devices) == cudaSuccess;
    cudaGetLastError();
    return answered ? devices : 0;
}

std::shared_ptr<cuda::Context> open_gpu(int index) {
    return std::make_shared<cuda::Context>(index);
}

std::string gpu_address(const cuda::Context& gpu) {
    char address[32] = {};
    cuda::check_cuda(cudaDeviceGetPCIBusId(address, sizeof address, gpu.index()), "cudaDeviceGetPCIBusId");
    return address;
}

std::string describe_gpu(const cuda::Context& gpu) {
    return fmt::format("{}, sm_{}, {} multiprocessors", gpu.name(), gpu.architecture(), gpu.multiprocessors());
}

void keep_gemm_algorithms(const std::string& path, std::function<void(const std::string&)> warn, const Exec& exec) {
    if (!exec.cuda) return;
    int driver = 0;
    cuda::check_cuda(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
    exec.cuda->set_gemm_choices(std::make_unique<GemmChoices>(
        path, fmt::format("{}, {}, driver {}", describe_gpu(*exec.cuda), cuda::gemm_library(), driver),
        std::move(warn)));
}

int64_t free_gpu_memory(const Exec& exec) {
    if (!exec.cuda) return 0;
    size_t free = 0, total = 0;
    cuda::check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
}

int64_t gpu_memory(const Exec& exec) {
    if (!exec.cuda) return 0;
    size_t free = 0, total = 0;
    cuda::check_cuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(total);
}

int64_t gpu_scratch_bytes(const ScratchSizes& sizes, const Exec& exec) {
    return exec.cuda ? cuda::workspace_bytes(sizes) + cuda::Context::kLibraryWorkspace : 0;
}

void reserve_gpu_scratch(const ScratchSizes& sizes, const Exec& exec) {
    if (exec.cuda) exec.cuda->reserve(cuda::workspace_bytes(sizes));
}

#else

void keep_gemm_algorithms(const std::string& /*path*/, std::function<void(const std::string&)> /*warn*/,
                          const Exec& /*exec*/) {}

int64_t free_gpu_memory(const Exec& /*exec*/) {
    return 0;
}

int64_t gpu_memory(const Exec& /*exec*/) {
    return 0;
}

int64_t gpu_scratch_bytes(const ScratchSizes& /*sizes*/, const Exec& /*exec*/) {
    return 0;
}

void reserve_gpu_scratch(const ScratchSizes& /*sizes*/, const Exec& /*exec*/) {}

bool has_cuda_backend() {
    return false;
}

int usable_gpus() {
    return 0;
}

std::shared_ptr<cuda::Context> open_gpu(int /*index*/) {
    fail_input("this build has no CUDA backend; configure with -DPLIMSOLL_CUDA=on (needs the CUDA toolkit)");
}

std::string gpu_address(const cuda::Context& /*gpu*/) {
    return {};
}

std::string describe_gpu(const cuda::Context& /*gpu*/) {
    return {};
}

void FreeMemory::operator()(void* memory) const {
    std::free(memory);
}

Memory allocate_memory(Device device, int64_t bytes, const char* what) {
    if (bytes == 0) return {};
    check(device == Device::kCpu, "{}: this build has no CUDA backend", what);
    return allocate_on_host(bytes, what);
}

void set_memory(Device /*device*/, void* memory, int value, int64_t bytes) {
    std::memset(memory, value, static_cast<size_t>(bytes));
}

void FreePinned::operator()(void* memory) const {
    std::free(memory);
}

PinnedMemory allocate_pinned(int64_t /*bytes*/, const char* what) {
    check(false, "{}: this build has no CUDA backend", what);
    return {};
}

struct Fence::Event {};

Fence::Fence(const Exec& /*exec*/) {
    check(false, "Fence: this build has no CUDA backend");
}

void Fence::record() {}

void Fence::wait() const {}

bool Fence::passed() const {
    return true;
}

void enqueue_copy_bytes(void* /*to*/, const void* /*from*/, int64_t /*bytes*/, const Exec& /*exec*/) {
    check(false, "copy: this build has no CUDA backend");
}

#endif

Fence::~Fence() = default;

void enqueue_copy(Tensor to, Tensor from, const Exec& exec) {
    check(to.shape == from.shape && to.dtype == from.dtype && to.contiguous() && from.contiguous(),
          "copy: {} {} to {} {}", name_of(from.dtype), from.shape, name_of(to.dtype), to.shape);
    if (to.device == Device::kCpu && from.device == Device::kCpu) {
        std::memcpy(to.data, from.data, static_cast<size_t>(to.bytes()));
        return;
    }
    check(has_cuda_backend() && exec.cuda, "copy: no GPU was opened");
    enqueue_copy_bytes(to.data, from.data, to.bytes(), exec);
}

void wait_for([[maybe_unused]] const Exec& exec) {
#ifdef PLIMSOLL_CUDA
    if (exec.cuda) exec.cuda->synchronize();
#endif
}

void copy_tensor(Tensor to, Tensor from, const Exec& exec) {
    enqueue_copy(to, from, exec);
    wait_for(exec);
}

}  // namespace plimsoll
