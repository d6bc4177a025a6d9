#include "simt/host_runtime.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <utility>
#include <vector>

#include "simt/memory.h"

struct EmulatedGraph {
    std::vector<std::function<void()>> work;
};
struct EmulatedStream {
    std::unique_ptr<EmulatedGraph> captured;        // while the stream is captured
    std::deque<std::function<void()>> submitted{};  // what a late stream has not done yet
};
// A point in a stream.
struct EmulatedPoint {
    EmulatedStream* stream = nullptr;
    bool reached = false;
    bool captured = false;  // a point of a graph: nobody can ask for it
};
struct EmulatedEvent {
    std::shared_ptr<EmulatedPoint> point;  // of the last record
    std::chrono::steady_clock::time_point time{};
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

thread_local cudaError_t last_error = cudaSuccess;

// One host thread at a time is in the runtime, as one kernel at a time is on the emulated device.
std::recursive_mutex& one_thread() {
    static std::recursive_mutex value;
    return value;
}

cudaError_t record(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

using Lock = std::lock_guard<std::recursive_mutex>;

std::set<EmulatedStream*>& streams() {
    static std::set<EmulatedStream*> value;
    return value;
}

void run_next(EmulatedStream& stream) {
    const std::function<void()> work = std::move(stream.submitted.front());
    stream.submitted.pop_front();
    work();
}

void run_all(EmulatedStream* stream) {
    while (stream && !stream->submitted.empty()) run_next(*stream);
}

void run_all() {
    for (EmulatedStream* stream : streams()) run_all(stream);
}

void run_until(const EmulatedPoint& point) {
    while (!point.reached && !point.stream->submitted.empty()) run_next(*point.stream);
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
    const Lock lock(one_thread());
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
    const Lock lock(one_thread());
    failures()[name] = {error, skip};
}

void submit(cudaStream_t stream, std::function<void()> work) {
    const Lock lock(one_thread());
    if (stream && stream->captured) {
        stream->captured->work.push_back(std::move(work));
    } else if (stream && host_state().late) {
        stream->submitted.push_back(std::move(work));
    } else {
        stream ? run_all(stream) : run_all();  // what came before it
        work();
    }
}

// A launch that cannot run is an error of the runtime; one that goes wrong while it runs is the emulator's to report.
void submit_launch(cudaStream_t stream, const Launch& request) {
    if (with_device("launch") != cudaSuccess) return;
    struct alignas(64) Chunk {  // as tensor maps want to be aligned
        std::byte at[64];
    };
    std::vector<Chunk> arguments((request.argument_bytes + sizeof(Chunk) - 1) / sizeof(Chunk));
    std::memcpy(arguments.data(), request.arguments, request.argument_bytes);
    submit(stream, [request, arguments = std::move(arguments)] {
        Launch mine = request;
        std::vector<Chunk> copy = arguments;  // a kernel may change its parameters
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
    const simt::Lock lock(simt::one_thread());
    try {
        *pointer = simt::device_allocate(bytes);
        return cudaSuccess;
    } catch (const simt::EmulationError&) {
        return record(cudaErrorMemoryAllocation);
    }
}

cudaError_t cudaFree(void* pointer) {
    if (const cudaError_t error = outside_capture("cudaFree")) return error;
    const simt::Lock lock(simt::one_thread());
    simt::run_all();  // it waits for the device
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
    const simt::Lock lock(simt::one_thread());
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
    const simt::Lock lock(simt::one_thread());
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

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (to_pitch < width || from_pitch < width) return record(cudaErrorInvalidValue);
    for (size_t row = 0; row < height; ++row)
        if (const cudaError_t error =
                cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                                static_cast<const char*>(from) + row * from_pitch, width, kind, stream))
            return error;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    if (const cudaError_t error = with_device("cudaStreamCreate")) return error;
    const simt::Lock lock(simt::one_thread());
    *stream = new EmulatedStream;
    simt::streams().insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    return cudaStreamCreate(stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const simt::Lock lock(simt::one_thread());
    simt::run_all(stream);
    simt::streams().erase(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (const cudaError_t error = outside_capture("cudaStreamSynchronize")) return error;
    const simt::Lock lock(simt::one_thread());
    stream ? simt::run_all(stream) : simt::run_all();
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (const cudaError_t error = with_device("cudaStreamWaitEvent")) return error;
    if (!event) return record(cudaErrorInvalidValue);
    if (const auto point = event->point) simt::submit(stream, [point] { simt::run_until(*point); });
    return cudaSuccess;
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

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (const cudaError_t error = with_device("cudaGraphLaunch")) return error;
    const simt::Lock lock(simt::one_thread());
    for (const std::function<void()>& work : executable->work) simt::submit(stream, work);
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

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (const cudaError_t error = with_device("cudaEventRecord")) return error;
    const simt::Lock lock(simt::one_thread());
    event->time = std::chrono::steady_clock::now();
    event->point = std::make_shared<EmulatedPoint>(EmulatedPoint{stream, false, stream && stream->captured});
    simt::submit(stream, [point = event->point] { point->reached = true; });
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (const cudaError_t error = outside_capture("cudaEventSynchronize")) return error;
    const simt::Lock lock(simt::one_thread());
    if (event->point) simt::run_until(*event->point);
    return cudaSuccess;
}

// Each question lets a late stream do one thing, or nobody who asks would ever see it done.
cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (const cudaError_t error = with_device("cudaEventQuery")) return error;
    const simt::Lock lock(simt::one_thread());
    if (event->point && event->point->captured) return record(cudaErrorCapturedEvent);
    if (!event->point || event->point->reached) return cudaSuccess;
    if (simt::host_state().stuck) return cudaErrorNotReady;
    EmulatedStream& stream = *event->point->stream;
    if (!stream.submitted.empty()) simt::run_next(stream);
    return event->point->reached ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
    if (const cudaError_t error = outside_capture("cudaDeviceSynchronize")) return error;
    const simt::Lock lock(simt::one_thread());
    simt::run_all();
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* address, int bytes, int device) {
    if (const cudaError_t error = with_device("cudaDeviceGetPCIBusId")) return error;
    std::snprintf(address, static_cast<size_t>(bytes), "0000:%02x:00.0", static_cast<unsigned>(device));
    return cudaSuccess;
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
        case cudaErrorNotReady:
            return "cudaErrorNotReady";
        case cudaErrorLaunchFailure:
            return "cudaErrorLaunchFailure";
        case cudaErrorStreamCaptureUnsupported:
            return "cudaErrorStreamCaptureUnsupported";
        case cudaErrorCapturedEvent:
            return "cudaErrorCapturedEvent";
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
