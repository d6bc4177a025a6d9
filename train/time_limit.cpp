#include "train/time_limit.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>

#include "kernels/error.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

constexpr size_t kSteps = 100;

double unix_seconds() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

TimeLimit TimeLimit::of(double max_seconds) {
    if (max_seconds > 0) return {process_start() + max_seconds, fmt::format("train.max_seconds = {}", max_seconds)};
    const char* text = std::getenv("SLURM_JOB_END_TIME");
    if (!text || !*text) return {};
    char* end = nullptr;
    const long long job_end = std::strtoll(text, &end, 10);
    if (*end || job_end <= 0)
        fail_input("SLURM_JOB_END_TIME is '{}', wanted Unix seconds; set train.max_seconds instead", brief(text));
    const double left = static_cast<double>(job_end) - unix_seconds();
    if (left <= 0) return {};  // inherited from a job that is over
    return {now_seconds() + left, fmt::format("SLURM_JOB_END_TIME = {}", job_end)};
}

void TimeLimit::took_step(double seconds) {
    steps_.push_back(seconds);
    if (steps_.size() > kSteps) steps_.pop_front();
}

void TimeLimit::took_evaluation(double seconds) {
    evaluation_ = std::max(evaluation_, seconds);
}

void TimeLimit::took_save(double seconds) {
    save_ = saved_ ? std::max(save_, seconds) : seconds;
    saved_ = true;
}

double TimeLimit::needed() const {
    const double step = steps_.empty() ? 0 : *std::ranges::max_element(steps_);
    return 1.25 * (2 * step + evaluation_ + 2 * save_) + 1;
}

}  // namespace plimsoll
