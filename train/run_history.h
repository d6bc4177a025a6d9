// The processes of a run, one after the other: who started, from where, and how it ended.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "kernels/error.h"

namespace plimsoll {

// A start as RUN/restarts.jsonl has it.
struct RecordedStart {
    std::string generation;
    int64_t newest = 0;            // step of the newest checkpoint it found, 0 without one
    std::optional<int> exit_code;  // none if it was killed, or still runs
    bool fenced = false;           // it ended because another process had taken the run over
};

// From the lines of restarts.jsonl, in their order.
std::vector<RecordedStart> recorded_starts(const std::vector<nlohmann::json>& lines);

// How many of the last starts in a row ended without a newer checkpoint than they found, if `newest` is the newest now.
// One that was done ends the row; one that lost the run to another process neither counts nor ends it.
int64_t starts_without_progress(const std::vector<RecordedStart>& starts, int64_t newest);

// One process's part of RUN/restarts.jsonl. Lines are appended and flushed one at a time: a power cut loses at most the
// one being written. Used by rank 0 alone.
class RunHistory {
  public:
    struct Setting {
        std::string directory;     // of the run
        std::string parent;        // --parent: the run that the ledger compares it with
        int64_t newest = 0;        // step of the newest checkpoint
        int64_t max_restarts = 0;  // train.max_restarts
        int ranks = 1;
    };

    // Reads what earlier processes left. Throws Error (70) if max_restarts of them in a row came to nothing: this start
    // does not count then.
    void open(const Setting& setting);
    // Records this start, once its generation owns the run. Throws Error (74).
    void begin(const std::string& generation);
    // Records the step it goes on from.
    void resumed(int64_t step);
    // "start 4 of this run, 2 since the last progress"
    std::string describe() const;
    // The run was done before this start: it leaves no line in the ledger.
    void found_done() { found_done_ = true; }
    // Records how the process ends, here and in the ledger (ledger.h). Once, and only after begin(): later calls do
    // nothing. What cannot be written is a warning on stderr.
    void end(ExitCode code);

  private:
    std::string file() const { return setting_.directory + "/restarts.jsonl"; }

    Setting setting_;
    std::string generation_;  // empty before begin()
    int64_t earlier_ = 0, without_progress_ = 0;
    bool found_done_ = false;
    std::atomic_flag ended_;  // the end may come from the thread that ends a hung run
};

}  // namespace plimsoll
