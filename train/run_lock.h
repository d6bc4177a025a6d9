// Fencing: of several processes that believe a run is theirs, only the one that started last may write its checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace plimsoll {

// The scheduler's name for the job this process belongs to ("pid N" without one), and how often it was restarted.
struct JobStart {
    std::string job, restart;
};
JobStart job_start();

// RUN/run.lock names the generation of the run's owner: job, restart count, boot, and a random number. A start replaces
// it, whoever was there before: a dead run's lock says nothing, and a live one's owner notices before its next
// checkpoint. Schedulers restart jobs while old processes still run (a node that lost its network).
class RunLock {
  public:
    // Takes the lock. Throws Error (74) if it cannot be written.
    explicit RunLock(const std::string& run_directory);

    // Throws Error (75) if the lock is another generation's by now, or gone.
    void check_held() const;
    // Whether the file is the one this process made: quick enough for every step.
    bool is_untouched() const;
    // Who holds the lock of a run; empty if nobody does, or the lock cannot be read.
    static std::string generation_in(const std::string& run_directory);
    // Random; 16 hexadecimal digits.
    const std::string& generation() const { return generation_; }

  private:
    std::string path_, generation_;
    std::pair<uint64_t, int64_t> file_;  // inode, and when it was made
};

}  // namespace plimsoll
