// Cells of a sweep as processes of this machine.
#pragma once

#include <optional>
#include <string>

#include "kernels/error.h"
#include "train/sweep.h"

namespace plimsoll {

enum class CellState : uint8_t { kWaiting, kInterrupted, kFailed, kDone };

// How far a cell's run is, from what it left in its directory.
struct CellProgress {
    CellState state = CellState::kWaiting;
    int64_t step = 0;
    std::optional<double> loss;  // of the last step
    double seconds = 0;
    int exit_code = 0;  // of the last try, where it failed
};
CellProgress progress_of(const Sweep& sweep, const SweepCell& cell);

// A table: each cell's state, step, loss and time, and how long the rest may take. Returns the exit status.
int print_sweep_status(const Sweep& sweep);

struct SweepOptions {
    bool retry_failed = false;  // cells whose last try failed run again; else they are left
    bool dry_run = false;       // says what would run
};

// Runs what is not done, launch.jobs cells at a time, each on cores and GPU of its own; a cell that was interrupted
// goes on where it was saved. After a signal the cells save and end, and so does the sweep, with kSavedOnSignal; should
// the sweep itself be killed, its cells are sent SIGTERM and save too. What cells print goes to DIR/CELL.txt, when they
// began and how they ended to DIR/sweep.jsonl. Returns kOk if every cell is done, kInternal if some failed.
ExitCode run_sweep(const Sweep& sweep, const SweepOptions& options);

}  // namespace plimsoll
