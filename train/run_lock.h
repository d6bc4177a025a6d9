// Fencing: of several processes that believe a run is theirs, only the one that started last may write its checkpoints.
#pragma once

#include <string>

namespace plimsoll {

// RUN/run.lock names the generation of the run's owner: job, restart count, boot, and a random number. A start replaces
// it, whoever was there before: a dead run's lock says nothing, and a live one's owner notices before its next
// checkpoint. Schedulers restart jobs while old processes still run (a node that lost its network).
class RunLock {
  public:
    // Takes the lock. Throws Error (74) if it cannot be written.
    explicit RunLock(const std::string& run_directory);

    // Throws Error (75) if the lock is another generation's by now, or gone.
    void check_held() const;
    // Random; 16 hexadecimal digits.
    const std::string& generation() const { return generation_; }

  private:
    std::string path_, generation_;
};

}  // namespace plimsoll
