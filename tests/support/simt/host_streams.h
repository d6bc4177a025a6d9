// What the runtime's calls share: one thread at a time, streams and their graphs.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "simt/host_runtime.h"

struct EmulatedGraph {
    std::vector<std::function<void()>> work;      // in the order of submission, one of those that branches allow
    std::set<EmulatedStream*> members{}, open{};  // forked streams while it is captured, and those not joined again
};
struct EmulatedStream {
    std::unique_ptr<EmulatedGraph> captured{};      // while the stream is captured
    EmulatedGraph* joined = nullptr;                // while it is captured with another
    std::deque<std::function<void()>> submitted{};  // what a late stream has not done yet

    EmulatedGraph* graph() const { return captured ? captured.get() : joined; }
};
// A point in a stream.
struct EmulatedPoint {
    EmulatedStream* stream = nullptr;
    bool reached = false;
    EmulatedGraph* captured = nullptr;  // a point of a graph: nobody can ask for it
};
struct EmulatedEvent {
    std::shared_ptr<EmulatedPoint> point;  // of the last record
    std::chrono::steady_clock::time_point time{};
};

namespace simt {

// One host thread at a time is in the runtime, as one kernel at a time is on the emulated device.
std::recursive_mutex& one_thread();
using Lock = std::lock_guard<std::recursive_mutex>;

// Keeps an error for cudaGetLastError().
cudaError_t record(cudaError_t error);
// What a call must return before it does anything; the second for calls that no capture may hold.
cudaError_t with_device(const char* name);
cudaError_t outside_capture(const char* name);

// Does what a late stream, or all of them, have not done yet.
void run_all(EmulatedStream* stream);
void run_all();

}  // namespace simt
