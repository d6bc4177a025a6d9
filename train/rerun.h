// A past run once more, from what its directory says, and whether the same came out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "train/config.h"

namespace plimsoll {

// What is repeated: a run's directory, its configuration and its run.json.
class PastRun {
  public:
    // Throws Error (78) unless config.toml and run.json of a run are there.
    explicit PastRun(const std::string& directory);

    // Its configuration with overrides ("section.key=value"), in `run_dir`, or by default in the first of RUN-rerun,
    // RUN-rerun2, ... that does not exist. Throws Error (78) if `run_dir` is the past run's own directory.
    RunConfig configuration(const std::vector<std::string>& overrides, const std::string& run_dir) const;
    // Throws Error (78), with the command that fits, if so many ranks with this configuration would sum gradients as
    // another number of ranks than the past run had.
    void check_ranks(const RunConfig& config, int ranks) const;
    // What differs between then and now and may change bits: "commit: abc then, def now".
    std::vector<std::string> differences(int threads) const;

    const std::string& directory() const { return directory_; }

  private:
    int64_t recorded_ranks() const;

    std::string directory_;
    std::string run_json_;  // text
};

// How a run's data and losses compare with another's.
struct Comparison {
    bool same_data = false;
    int64_t steps = 0;                      // that both have in metrics.jsonl
    std::optional<int64_t> first_differs;   // step
    double here = 0, there = 0;             // its losses; NaN for one that was not finite
    int64_t only_here = 0, only_there = 0;  // steps that the other has not

    bool equal() const { return same_data && steps > 0 && !first_differs; }
    // "equal to the bit: data and the losses of 60 steps", or what differs first and by how much.
    std::string text() const;
};
Comparison compare_runs(const std::string& here, const std::string& there);

struct RerunOptions {
    std::string run, run_dir;
    std::vector<std::string> overrides;
    bool check = false;   // a difference is an error
    std::string command;  // as typed, for run.json
};
// Repeats a run and says how it compares. Returns the process's exit status: the run's own if it did not end well; 70
// for a difference with `check`.
int rerun(const RerunOptions& options);

}  // namespace plimsoll
