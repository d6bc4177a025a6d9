#include "simt/host_streams.h"

#include <cstring>

#include "simt/memory.h"

namespace simt {
namespace {

std::set<EmulatedStream*>& streams() {
    static std::set<EmulatedStream*> value;
    return value;
}

void run_next(EmulatedStream& stream) {
    const std::function<void()> work = std::move(stream.submitted.front());
    stream.submitted.pop_front();
    work();
}

void run_until(const EmulatedPoint& point) {
    while (!point.reached && !point.stream->submitted.empty()) run_next(*point.stream);
}

// How many streams this thread captures (cudaStreamCaptureModeThreadLocal): meanwhile it may not wait or allocate.
thread_local int captures = 0;

}  // namespace

cudaError_t outside_capture(const char* name) {
    if (const cudaError_t error = with_device(name)) return error;
    return captures ? record(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

void run_all(EmulatedStream* stream) {
    while (stream && !stream->submitted.empty()) run_next(*stream);
}

void run_all() {
    for (EmulatedStream* stream : streams()) run_all(stream);
}

void submit(cudaStream_t stream, std::function<void()> work) {
    const Lock lock(one_thread());
    if (EmulatedGraph* const graph = stream ? stream->graph() : nullptr) {
        graph->work.push_back(std::move(work));
        if (stream->joined) graph->open.insert(stream);
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
    ++host_state().launches;
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

using simt::outside_capture;
using simt::record;
using simt::with_device;

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
    const simt::Lock lock(simt::one_thread());
    const auto point = event->point;
    if (!point) return cudaSuccess;
    if (EmulatedGraph* const graph = point->captured) {
        if (stream->graph() && stream->graph() != graph) return record(cudaErrorInvalidValue);
        if (!stream->graph()) stream->joined = graph, graph->members.insert(stream);  // a branch begins
        graph->open.erase(point->stream);                                             // one may end
    }
    simt::submit(stream, [point] { simt::run_until(*point); });
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (const cudaError_t error = with_device("cudaStreamBeginCapture")) return error;
    if (!stream || stream->graph()) return record(cudaErrorInvalidValue);
    stream->captured = std::make_unique<EmulatedGraph>();
    ++simt::captures;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    if (const cudaError_t error = with_device("cudaStreamEndCapture")) return error;
    if (!stream->captured) return record(cudaErrorInvalidValue);
    std::unique_ptr<EmulatedGraph> recorded = std::move(stream->captured);
    --simt::captures;
    for (EmulatedStream* member : recorded->members) member->joined = nullptr;
    const bool whole = recorded->open.empty();
    *graph = whole ? recorded.release() : nullptr;
    return whole ? cudaSuccess : record(cudaErrorStreamCaptureUnjoined);
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
    event->point = std::make_shared<EmulatedPoint>(EmulatedPoint{stream, false, stream ? stream->graph() : nullptr});
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
