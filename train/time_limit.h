// A run that ends by itself before something else ends it: saved, and ready to go on.
#pragma once

#include <cstdint>
#include <deque>
#include <limits>
#include <string>

namespace plimsoll {

// When a process of a run must have ended, and whether what is left is less than what may still come: times are on the
// clock of now_seconds().
class TimeLimit {
  public:
    // No limit.
    TimeLimit() = default;
    // `name`: where the limit comes from, for the log.
    TimeLimit(double until, std::string name) : until_(until), name_(std::move(name)) {}

    // `max_seconds` (train.max_seconds) after the process started. If that is 0, the end of the SLURM job by
    // SLURM_JOB_END_TIME (Unix seconds), if that is set and not past. Throws Error (78) if it is set and no such
    // number.
    static TimeLimit of(double max_seconds);

    // What things took, in seconds. A save before the first one has been measured is `expect_save`.
    void expect_save(double seconds) { save_ = seconds; }
    void took_step(double seconds);
    void took_evaluation(double seconds);
    void took_save(double seconds);

    // Seconds that may pass before the process has ended, if it is told to in the middle of a step: that step and
    // another (ranks agree a step ahead), an evaluation, a save under way and the last one; a quarter more, and a
    // second. Each as long as the longest: of the last 100 steps, of all saves and evaluations.
    double needed() const;
    bool is_reached(double now) const { return now + needed() > until_; }
    // "train.max_seconds = 60"; empty without a limit.
    const std::string& name() const { return name_; }

  private:
    double until_ = std::numeric_limits<double>::infinity();
    std::string name_;
    std::deque<double> steps_;
    double evaluation_ = 0, save_ = 0;
    bool saved_ = false;
};

}  // namespace plimsoll
