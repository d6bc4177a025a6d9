// Runs the cells of a sweep that are not done: as processes of this machine, or as a job array of SLURM.
#pragma once

#include "kernels/error.h"
#include "train/sweep.h"

namespace plimsoll {

struct SweepOptions {
    bool retry_failed = false;  // cells whose last try failed run again; else they are left
    bool dry_run = false;       // says what would run
};

// launch.with = "local": launch.jobs cells at a time, each on cores and GPU of its own; a cell that was interrupted
// goes on where it was saved. After a signal the cells save and end, and so does the sweep, with kSavedOnSignal; should
// the sweep itself be killed, its cells are sent SIGTERM and save too. What cells print goes to DIR/CELL.txt; which
// there are, when they began and how they ended to DIR/sweep.jsonl. Returns kOk if every cell is done, kInternal if
// some failed.
//
// "slurm": submits one job array of scripts/slurm/sweep.sbatch, a task for each cell that is neither done nor in the
// queue, and returns; the tasks requeue themselves.
//
// Throws Error (75) while another process runs cells of this sweep.
ExitCode run_sweep(const Sweep& sweep, const SweepOptions& options);

// What a task of the job array is to do, as lines: the file for what it prints, then the words of its command. Throws
// Error (78) if the cells are no longer those that were submitted (`cells_hash`).
void print_cell(const Sweep& sweep, int64_t index, const std::string& cells_hash);
// Notes how it ended.
void end_cell(const Sweep& sweep, int64_t index, const std::string& cells_hash, int status);

}  // namespace plimsoll
