// Ranges for profilers, and the GPU's clock.
#include "kernels/dispatch.h"
#include "kernels/trace.h"
#ifdef PLIMSOLL_CUDA
#include <nvtx3/nvToolsExt.h>

#include "kernels/cuda/context.h"
#endif

namespace plimsoll {

TraceRange::TraceRange(const Exec& exec, const char* name, int64_t index) : tracer_(exec.tracer) {
#ifdef PLIMSOLL_CUDA
    nvtxRangePushA(name);
#endif
    if (tracer_) tracer_->begin(name, index);
}

TraceRange::~TraceRange() {
    if (tracer_) tracer_->end();
#ifdef PLIMSOLL_CUDA
    nvtxRangePop();
#endif
}

#ifdef PLIMSOLL_CUDA

struct GpuClock::Marks {
    cudaStream_t stream;
    std::vector<cudaEvent_t> events;
};

GpuClock::GpuClock(const Exec& exec) : marks_(std::make_unique<Marks>()) {
    check(exec.cuda, "GpuClock: no GPU was opened");
    marks_->stream = exec.cuda->stream();
}

GpuClock::~GpuClock() {
    for (cudaEvent_t event : marks_->events) cudaEventDestroy(event);
}

size_t GpuClock::mark() {
    cudaEvent_t event = nullptr;
    cuda::check_cuda(cudaEventCreate(&event), "cudaEventCreate");
    marks_->events.push_back(event);
    cuda::check_cuda(cudaEventRecord(event, marks_->stream), "cudaEventRecord");
    return marks_->events.size() - 1;
}

std::vector<double> GpuClock::seconds() const {
    std::vector<double> seconds;
    for (cudaEvent_t event : marks_->events) {
        float milliseconds = 0;
        cuda::check_cuda(cudaEventSynchronize(event), "cudaEventSynchronize");
        cuda::check_cuda(cudaEventElapsedTime(&milliseconds, marks_->events.front(), event), "cudaEventElapsedTime");
        seconds.push_back(1e-3 * static_cast<double>(milliseconds));
    }
    return seconds;
}

#else

struct GpuClock::Marks {};

GpuClock::GpuClock(const Exec& /*exec*/) {
    check(false, "GpuClock: this build has no CUDA backend");
}

GpuClock::~GpuClock() = default;

size_t GpuClock::mark() {
    return 0;
}

std::vector<double> GpuClock::seconds() const {
    return {};
}

#endif

}  // namespace plimsoll
