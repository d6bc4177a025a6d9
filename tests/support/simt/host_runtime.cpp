#include "simt/host_runtime.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <stdexcept>
#include <utility>

#include "simt/host_streams.h"
#include "simt/memory.h"

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

// The error that a test has planned for a call.
cudaError_t planned(const char* name) {
    const auto found = failures().find(name);
    if (found == failures().end() || found->second.skip-- > 0) return cudaSuccess;
    const cudaError_t error = found->second.error;
    failures().erase(found);
    return record(error);
}

}  // namespace

std::recursive_mutex& one_thread() {
    static std::recursive_mutex value;
    return value;
}

cudaError_t record(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

cudaError_t with_device(const char* name) {
    const Lock lock(one_thread());
    if (const cudaError_t error = planned(name)) return error;
    const HostState& host = host_state();
    if (host.driver_version < host.runtime_version) return record(cudaErrorInsufficientDriver);
    if (host.devices == 0) return record(cudaErrorNoDevice);
    return cudaSuccess;
}

HostState& host_state() {
    static HostState value;
    return value;
}

void fail_call(const char* name, cudaError_t error, int skip) {
    const Lock lock(one_thread());
    failures()[name] = {error, skip};
}

}  // namespace simt

using simt::outside_capture;
using simt::record;
using simt::with_device;

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
        case cudaErrorStreamCaptureUnjoined:
            return "cudaErrorStreamCaptureUnjoined";
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
