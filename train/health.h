// Whether a step's update is applied: the same decision on every rank, and after a resume.
#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "train/config.h"

namespace plimsoll {

enum class Verdict : uint8_t {
    kUpdate,
    kSkip,      // leave the parameters as they are, go on with the next data
    kRollBack,  // the same, from the newest checkpoint on
    kStop,
};

// Judges steps by their loss and gradient norm, which all ranks know to the bit. A step is bad if either is NaN or
// infinite or, with health.spike, lies more than that many standard deviations above the mean of the last
// health.window good steps. What a bad step had never enters that mean.
class Health {
  public:
    explicit Health(const HealthSection& config) : config_(config) {}

    Verdict judge(double loss, double norm);
    // Why the last step was bad: "gradient norm nan".
    const std::string& reason() const { return reason_; }
    int64_t skipped() const { return skipped_; }
    int64_t rollbacks() const { return rollbacks_; }

    // What a checkpoint keeps; doubles survive to the bit.
    nlohmann::json state() const;
    // The windows as they were; counters keep what was counted since. Throws Error (78) for what state() does not make.
    void restore(const nlohmann::json& state);

  private:
    // The last good values of one number.
    struct Window {
        const char* name;
        std::deque<double> values = {};
        // "loss 9.1 is 12.3 standard deviations above the last 128"; empty if `value` is none of that.
        std::string complaint(double value, const HealthSection& config) const;
        void add(double value, const HealthSection& config);
    };

    HealthSection config_;
    Window loss_{"loss"}, norm_{"gradient norm"};
    std::string reason_;
    int64_t in_a_row_ = 0, skipped_ = 0, rollbacks_ = 0;
};

// Which rank is slow: by the time each computes, without waiting for others.
class Stragglers {
  public:
    // Seconds a step took each rank. Every kSteps steps an answer: "straggler: rank 2 computes 61 ms per step, the
    // others 30 ms", or nothing if no rank takes half as long again as the others do in the median.
    std::string add(std::span<const double> seconds);

  private:
    static constexpr int kSteps = 10;
    std::vector<double> sums_;
    int steps_ = 0;
};

}  // namespace plimsoll
