// Which ranks of a job have started, before they have met.
#pragma once

#include <string>

namespace plimsoll {

struct Launch;

// MPI's start returns on no rank until every rank has called it, and cannot be interrupted. Meanwhile each leaves a
// file in the run's directory, so that those that did come can name those that did not. Over TCP the
// files tell a rank that never started from one that does not reach rank 0.
class StartingRanks {
  public:
    // Leaves this rank's file. What cannot be written is left out: starting must not fail over it.
    StartingRanks(const std::string& run_directory, const Launch& launch);
    ~StartingRanks() { withdraw(); }
    StartingRanks(const StartingRanks&) = delete;

    // Removes the file.
    void withdraw() const;
    // "ranks 1, 3 of 4 have not started", or that nothing is known.
    std::string missing() const;

  private:
    std::string folder_, file_;
    int ranks_ = 0;
};

}  // namespace plimsoll
