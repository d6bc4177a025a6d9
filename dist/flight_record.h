// The last operations of a rank, for when one of them never ends.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <mutex>
#include <string>

namespace plimsoll {

// What every group split from one world shares. Safe to use from several threads.
class FlightRecord {
  public:
    // An operation begins; returns what end() wants.
    int64_t begin(std::string operation);
    void end(int64_t ticket);
    // Called with the reason before a rank ends all others, once.
    void on_abort(std::function<void(const std::string&)> tell);
    void aborting(const std::string& reason);
    // One line each, oldest first: when it began, how long it took or has been waiting, which it was.
    std::string text() const;

  private:
    static constexpr size_t kOperations = 64;
    using Clock = std::chrono::steady_clock;
    struct Operation {
        std::string name;
        Clock::time_point begun, ended;  // equal: under way
    };

    mutable std::mutex mutex_;
    std::function<void(const std::string&)> tell_;
    Clock::time_point start_ = Clock::now();
    std::deque<Operation> operations_;
    int64_t first_ = 0;  // ticket of the oldest
};

}  // namespace plimsoll
