// When a rank did what for core attention: for a picture of how its traffic hides behind computing.
#pragma once

#include <array>
#include <chrono>
#include <string_view>
#include <vector>

#include "kernels/core_attention.h"

namespace plimsoll {

enum class Pass : uint8_t { kForward, kBackward };

// In the order of a call.
enum class CaPhase : uint8_t {
    kDispatch,        // what other ranks' tasks read leaves: copied together, sent (in two hops: sent on too)
    kOwn,             // tasks on rows in place
    kWaitForTasks,    // until what this rank's tasks read is here, and copied to its place
    kServed,          // tasks on copies
    kReturn,          // their results leave
    kWaitForResults,  // until those of the own rows are here
    kAddUp,           // parts of key gradients, and the sums of relays
};
inline constexpr std::array<std::string_view, 7> kCaPhaseNames{
    "dispatch", "own", "wait_for_tasks", "served", "return", "wait_for_results", "add_up"};

struct CaInterval {
    CaPhase phase{};
    Pass pass{};
    int lane = 0;
    int64_t layer = 0;
    int64_t tick = 0;           // as entered
    double begin = 0, end = 0;  // seconds since start(); with a GPU, of the calling thread, which submits
};

// Everything since start(). Recording reads a clock and nothing else.
class CaTimeline {
  public:
    // Forgets all. Now is time 0.
    void start() {
        intervals_.clear();
        start_ = std::chrono::steady_clock::now();
    }
    // Calls of this pass belong to a tick from now on.
    void enter(Pass pass, int64_t tick) { ticks_[static_cast<size_t>(pass)] = tick; }
    double now() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }
    void add(CaInterval interval) {
        interval.tick = ticks_[static_cast<size_t>(interval.pass)];
        intervals_.push_back(interval);
    }
    const std::vector<CaInterval>& intervals() const { return intervals_; }

  private:
    std::chrono::steady_clock::time_point start_;
    std::array<int64_t, 2> ticks_{};
    std::vector<CaInterval> intervals_;
};

// The phases of one call, one after the other. Without a timeline it does nothing.
class CaStopwatch {
  public:
    CaStopwatch(CaTimeline* timeline, Pass pass, const AttentionCall& call)
        : timeline_(timeline),
          pass_(pass),
          lane_(call.lane),
          layer_(call.layer),
          begin_(timeline ? timeline->now() : 0) {}
    // What was done since the last lap, or the beginning.
    void lap(CaPhase phase) {
        if (!timeline_) return;
        const double now = timeline_->now();
        timeline_->add({.phase = phase, .pass = pass_, .lane = lane_, .layer = layer_, .begin = begin_, .end = now});
        begin_ = now;
    }

  private:
    CaTimeline* timeline_;
    Pass pass_;
    int lane_;
    int64_t layer_;
    double begin_;
};

}  // namespace plimsoll
