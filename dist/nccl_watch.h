// Whoever waits for a peer that is gone waits on the GPU, where no timeout reaches it: a thread that watches over what
// NCCL has under way, and ends it.
#pragma once

#include <condition_variable>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "dist/nccl_transport.h"

namespace plimsoll {

using NcclClock = std::chrono::steady_clock;

// Exchanges that are launched as one group.
struct NcclFlight {
    NcclFlight();
    ~NcclFlight();
    NcclFlight(const NcclFlight&) = delete;

    std::vector<SendTo> sends;
    std::vector<ReceiveFrom> receives;
    std::string name;  // of its first exchange
    NcclClock::time_point deadline;
    ncclComm_t communicator = nullptr;
    cudaEvent_t done = nullptr;
    bool recorded = false;  // `done` stands in the stream
    bool over = false;
};

// The communicators of a rank, of the world and of its groups. NCCL is called by one thread at a time: with the mutex.
class NcclWatch {
  public:
    // `device`: the GPU's index, for the thread.
    NcclWatch(const NcclApi& api, int device);
    ~NcclWatch();
    NcclWatch(const NcclWatch&) = delete;

    const NcclApi& api() const { return api_; }
    std::mutex& mutex() { return mutex_; }

    // With the mutex:
    void add(ncclComm_t communicator) { communicators_.insert(communicator); }
    // Returns whether it was still there: an aborted communicator is gone.
    bool remove(ncclComm_t communicator) { return communicators_.erase(communicator) > 0; }
    void add(std::shared_ptr<NcclFlight> flight) { flights_.push_back(std::move(flight)); }
    // Whether everything of the flight has arrived. Fails if the device has a problem.
    bool arrived(NcclFlight& flight);
    // Aborts every communicator: what is under way ends, what comes later is refused with the first reason.
    void fail(const std::string& reason);
    const std::optional<std::string>& failure() const { return failure_; }
    // Fails unless NCCL is content, or still at work.
    void expect(ncclResult_t result, const char* call);

    // Groups that are not launched yet, by owner; for the rank's own thread.
    void hold_back(const void* owner, std::function<void()> launch) { held_back_[owner] = std::move(launch); }
    void forget(const void* owner) { held_back_.erase(owner); }
    // All of them: this rank is about to wait, and others may wait for them.
    void launch_held_back();

  private:
    void watch(int device);
    void look();

    const NcclApi& api_;
    std::mutex mutex_;
    std::condition_variable stopped_;
    bool stop_ = false;
    std::set<ncclComm_t> communicators_;
    std::list<std::shared_ptr<NcclFlight>> flights_;
    std::optional<std::string> failure_;
    std::map<const void*, std::function<void()>> held_back_;
    std::thread thread_;
};

}  // namespace plimsoll
