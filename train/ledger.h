// One line per ended process of a run, in a file that all runs beside it share: what was changed, and what came of it.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json_fwd.hpp>

#include "kernels/error.h"
#include "train/config.h"

namespace plimsoll {

enum class RunStatus : uint8_t {
    kDone,
    kStopped,  // by a signal or a time limit, after saving
    kFailed,
    kFenced,  // another process had taken the run over: what is in its directory is the other's
};
std::string name_of(RunStatus status);

struct RunEnd {
    std::string directory;  // of the run
    std::string parent;     // directory of the run to compare with; empty = the one before it in the ledger
    ExitCode code = ExitCode::kOk;
    RunStatus status = RunStatus::kDone;
    int ranks = 1;
};

// ledger.jsonl in the folder that the run's directory is in.
std::string ledger_path(const std::string& run_directory);

// What a run changed of its parent's configuration: key -> [the parent's value, its own]. Without keys that say where a
// run lies, what it is called, how fast it goes, and how often it logs or saves.
nlohmann::json config_change(const RunConfig& parent, const RunConfig& own);
// The same in a line for people: "attention.weighting softmax -> sigmoid, optimizer.lr 0.001 -> 0.003"; past some 120
// characters "and N more"; "none".
std::string change_text(const nlohmann::json& change);

// The line of a process that ends, from the files of its run: README of this room. A fenced process has no numbers.
nlohmann::json ledger_line(const RunEnd& end);
// Appends it to the ledger. Throws Error (74) if that fails, (78) if the run's configuration cannot be read.
void append_to_ledger(const RunEnd& end);

// Throws Error (78) unless a run lies there, which can be a parent.
void check_parent(const std::string& directory);

}  // namespace plimsoll
