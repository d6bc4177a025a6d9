#include "dist/nccl_watch.h"

#include "kernels/cuda/context.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr std::chrono::milliseconds kWatchEvery{100};

}  // namespace

NcclFlight::NcclFlight() {
    cuda::check_cuda(cudaEventCreateWithFlags(&done, cudaEventDisableTiming), "cudaEventCreate");
}

NcclFlight::~NcclFlight() {
    cudaEventDestroy(done);
}

NcclWatch::NcclWatch(const NcclApi& api, int device) : api_(api), thread_([this, device] { watch(device); }) {}

NcclWatch::~NcclWatch() {
    {
        const std::lock_guard lock(mutex_);
        stop_ = true;
    }
    stopped_.notify_all();
    thread_.join();
}

void NcclWatch::expect(ncclResult_t result, const char* call) {
    if (result != ncclSuccess && result != ncclInProgress) fail(fmt::format("{}: {}", call, api_.error_string(result)));
}

void NcclWatch::fail(const std::string& reason) {
    if (failure_) return;  // the first one is the cause
    failure_ = reason;
    for (ncclComm_t communicator : communicators_) api_.abort(communicator);
    communicators_.clear();
}

bool NcclWatch::arrived(NcclFlight& flight) {
    if (flight.over || !flight.recorded) return flight.over;
    const cudaError_t error = cudaEventQuery(flight.done);
    if (error == cudaErrorNotReady) return false;
    if (error != cudaSuccess) {
        fail(fmt::format("the GPU: {}", cudaGetErrorString(error)));
        return false;
    }
    ncclResult_t result = ncclSuccess;  // an error may end what the event stands behind
    expect(api_.get_async_error(flight.communicator, &result), "ncclCommGetAsyncError");
    expect(result, "NCCL");
    return flight.over = !failure_;
}

void NcclWatch::launch_held_back() {
    for (const auto& [owner, launch] : std::exchange(held_back_, {})) launch();
}

void NcclWatch::watch(int device) {
    cudaSetDevice(device);
    std::unique_lock lock(mutex_);
    while (!stopped_.wait_for(lock, kWatchEvery, [&] { return stop_; })) look();
}

void NcclWatch::look() {
    if (failure_) return flights_.clear();
    for (ncclComm_t communicator : std::set(communicators_)) {
        ncclResult_t result = ncclSuccess;
        const ncclResult_t asked = api_.get_async_error(communicator, &result);
        expect(asked == ncclSuccess ? result : asked, "NCCL");
        if (failure_) return;
    }
    std::erase_if(flights_, [&](const auto& flight) { return !failure_ && arrived(*flight); });
    const auto now = NcclClock::now();
    for (const std::shared_ptr<NcclFlight>& flight : flights_)
        if (now > flight->deadline) return fail(fmt::format("{} is not done in time", flight->name));
}

}  // namespace plimsoll
