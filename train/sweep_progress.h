// How far a sweep is: what its cells left on disk, and which of them somebody runs.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "train/sweep.h"

namespace plimsoll {

enum class CellState : uint8_t { kWaiting, kQueued, kRunning, kInterrupted, kFailed, kDone };
std::string_view name_of(CellState state);

struct CellProgress {
    CellState state = CellState::kWaiting;
    int64_t step = 0;
    std::optional<double> loss;  // of the last step
    double seconds = 0;
    int exit_code = 0;  // of the last try, where it failed
};

// A file of the sweep's directory: CELL.txt holds what a cell printed, sweep.jsonl what happened to the cells.
std::string path_in(const Sweep& sweep, const std::string& name);

// Appends a line to sweep.jsonl, with the time: {"event": "begin" or "end", "cell", ...}.
void note_event(const Sweep& sweep, nlohmann::json event);

// What sweep.jsonl says, and what runs now, as it was when this was made; what this notes itself it knows.
class SweepJournal {
  public:
    explicit SweepJournal(const Sweep& sweep);
    // note_event of a cell whose process has ended.
    void note_end(const Sweep& sweep, const SweepCell& cell, int status);
    CellProgress progress_of(const SweepCell& cell) const;
    // Whether a process of this machine, or a task of SLURM's, runs the cell.
    bool is_running(const SweepCell& cell) const { return running_.contains(cell.name); }

  private:
    std::map<std::string, int> exit_codes_;  // of the last tries that ended, by cell
    std::set<std::string> running_, queued_;
};

// A table: each cell's state, step, loss and time, and how long the rest may take. Returns the exit status.
int print_sweep_status(const Sweep& sweep);

}  // namespace plimsoll
