#include "simt/host_runtime.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "simt/memory.h"

struct EmulatedGraph {
    std::vector<std::function<void()>> work;
};
struct EmulatedStream {
    std::unique_ptr<EmulatedGraph> captured;  // while the stream is captured
};
struct EmulatedEvent {
    std::chrono::steady_clock::time_point time;
};

namespace simt {
namespace {

struct Failure {
    cudaError_t error;
    int skip;
};

std::map<std::string, Failure>& failures() {
    static std::map<std::string, Failure> value;
    return value;
}

cudaError_t last_error = cudaSuccess;

cudaError_t record(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

// What a call must return before it does anything.
cudaError_t planned(const char* name) {
    const auto found = failures().find(name);
    if (found == failures().end() || found->second.skip-- > 0) return cudaSuccess;
    const cudaError_t error = found->second.error;
    failures().erase(found);
    return record(error);
}

// How many streams this thread captures (cudaStreamCaptureModeThreadLocal): meanwhile it may not wait or allocate.
thread_local int captures = 0;

cudaError_t with_device(const char* name) {
    if (const cudaError_t error = planned(name)) return error;
    const HostState& host = host_state();
    if (host.driver_version < host.runtime_version) return record(cudaErrorInsufficientDriver);
    if (host.devices == 0) return record(cudaErrorNoDevice);
    return cudaSuccess;
}

}  // namespace

HostState& host_state() {
    static HostState value;
    return value;
}

void fail_call(const char* name, cudaError_t error, int skip) {
    failures()[name] = {error, skip};
}

void submit(cudaStream_t stream, std::function<void()> work) {
    if (stream && stream->captured)
        stream->captured->work.push_back(std::move(work));
    else
        work();
}

// A launch that cannot run is an error of the runtime; one that goes wrong while it runs is the emulator's to report.
void submit_launch(cudaStream_t stream, const Launch& request) {
    if (with_device("launch") != cudaSuccess) return;
    const auto* bytes = static_cast<const std::byte*>(request.arguments);
    std::vector<std::byte> arguments(bytes, bytes + request.argument_bytes);
    submit(stream, [request, arguments = std::move(arguments)] {
        Launch mine = request;
        std::vector<std::byte> copy = arguments;  // a kernel may change its parameters
        mine.arguments = copy.data();
        launch(mine);
    });
}

}  // namespace simt

using simt::record;
using simt::with_device;

namespace {

cudaError_t outside_capture(const char* name) {
    if (const cudaError_t error = with_device(name)) return error;
    return simt::captures ? record(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    if (const cudaError_t error = outside_capture("cudaMalloc")) return error;
    try {
        *pointer = simt::device_allocate(bytes);
        return cudaSuccess;
    } catch (const simt::EmulationError&) {
        return record(cudaErrorMemoryAllocation);
    }
}

cudaError_t cudaFree(void* pointer) {
    if (const cudaError_t error = outside_capture("cudaFree")) return error;
    simt::device_free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
    if (const cudaError_t error = outside_capture("cudaMallocHost")) return error;
    *pointer = std::malloc(bytes);
    return *pointer ? cudaSuccess : record(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (const cudaError_t error = with_device("cudaMemcpyAsync")) return error;
    if (bytes == 0) return cudaSuccess;
    const bool to_device = simt::is_device_address(to), from_device = simt::is_device_address(from);
    const bool wants_to = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool wants_from = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (to_device != wants_to || from_device != wants_from))
        return record(cudaErrorInvalidValue);
    if (to_device) simt::check_device_range(to, bytes, "cudaMemcpyAsync");
    if (from_device) simt::check_device_range(from, bytes, "cudaMemcpyAsync");
    simt::submit(stream, [=] {
        std::memmove(to, from, bytes);
        if (to_device) simt::mark_written(to, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
    if (const cudaError_t error = with_device("cudaMemsetAsync")) return error;
    simt::check_device_range(to, bytes, "cudaMemsetAsync");
    simt::submit(stream, [=] {
        std::memset(to, value, bytes);
        simt::mark_written(to, bytes);
    });
    return cudaSuccess;
}

cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t stream) {
    for (size_t row = 0; row < height; ++row)
        if (const cudaError_t error = cudaMemsetAsync(static_cast<char*>(to) + row * pitch, value, width, stream))
            return error;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    if (const cudaError_t error = with_device("cudaStreamCreate")) return error;
    *stream = new EmulatedStream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return outside_capture("cudaStreamSynchronize");
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
    if (const cudaError_t error = with_device("cudaStreamWaitEvent")) return error;
    return event ? cudaSuccess : record(cudaErrorInvalidValue);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (const cudaError_t error = with_device("cudaStreamBeginCapture")) return error;
    if (!stream || stream->captured) return record(cudaErrorInvalidValue);
    stream->captured = std::make_unique<EmulatedGraph>();
    ++simt::captures;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    if (const cudaError_t error = with_device("cudaStreamEndCapture")) return error;
    if (!stream->captured) return record(cudaErrorInvalidValue);
    *graph = stream->captured.release();
    --simt::captures;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    if (const cudaError_t error = with_device("cudaGraphInstantiate")) return error;
    *executable = new EmulatedGraph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    if (const cudaError_t error = with_device("cudaGraphLaunch")) return error;
    for (const std::function<void()>& work : executable->work) work();
    ++simt::host_state().graph_launches;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    if (const cudaError_t error = with_device("cudaEventCreate")) return error;
    *event = new EmulatedEvent;
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    if (const cudaError_t error = with_device("cudaEventRecord")) return error;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return outside_capture("cudaEventSynchronize");
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    return outside_capture("cudaDeviceSynchronize");
}

cudaError_t cudaGetDeviceCount(int* count) {
    if (const cudaError_t error = with_device("cudaGetDeviceCount")) return error;
    *count = simt::host_state().devices;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (const cudaError_t error = with_device("cudaSetDevice")) return error;
    return device < simt::host_state().devices ? cudaSuccess : record(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (const cudaError_t error = with_device("cudaGetDeviceProperties")) return error;
    const simt::HostState& host = simt::host_state();
    if (device >= host.devices) return record(cudaErrorInvalidDevice);
    *properties = {.name = "plimsoll SIMT emulator",
                   .totalGlobalMem = simt::device_memory_bytes(),
                   .major = host.major,
                   .minor = host.minor,
                   .multiProcessorCount = host.multiprocessors,
                   .sharedMemPerBlockOptin = (host.major >= 9 ? 227u : 163u) << 10};
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
    switch (attribute) {
        case cudaDevAttrMultiProcessorCount:
            *value = properties.multiProcessorCount;
            return cudaSuccess;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(properties.sharedMemPerBlockOptin);
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMajor:
            *value = properties.major;
            return cudaSuccess;
        case cudaDevAttrComputeCapabilityMinor:
            *value = properties.minor;
            return cudaSuccess;
    }
    return record(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = simt::host_state().driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = simt::host_state().runtime_version;
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
    if (const cudaError_t error = with_device("cudaMemGetInfo")) return error;
    *total = simt::device_memory_bytes();
    *free = *total - simt::device_memory_in_use();
    return cudaSuccess;
}

cudaError_t cudaGetLastError() {
    return std::exchange(simt::last_error, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
    return simt::last_error;
}

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "cudaSuccess";
        case cudaErrorInvalidValue:
            return "cudaErrorInvalidValue";
        case cudaErrorMemoryAllocation:
            return "cudaErrorMemoryAllocation";
        case cudaErrorInitializationError:
            return "cudaErrorInitializationError";
        case cudaErrorInsufficientDriver:
            return "cudaErrorInsufficientDriver";
        case cudaErrorNoDevice:
            return "cudaErrorNoDevice";
        case cudaErrorInvalidDevice:
            return "cudaErrorInvalidDevice";
        case cudaErrorNoKernelImageForDevice:
            return "cudaErrorNoKernelImageForDevice";
        case cudaErrorIllegalAddress:
            return "cudaErrorIllegalAddress";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
    }
    return "unknown error";
}

const char* cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}

cudaError_t simt_set_kernel_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (const cudaError_t error = with_device("cudaFuncSetAttribute")) return error;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0) return record(cudaErrorInvalidValue);
    try {
        simt::allow_dynamic_shared(kernel, static_cast<size_t>(value));
        return cudaSuccess;
    } catch (const simt::EmulationError&) {
        return record(cudaErrorInvalidValue);
    }
}
