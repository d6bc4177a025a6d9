#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/error.h"

namespace plimsoll {

double learning_rate(const ScheduleSection& schedule, double lr, int64_t step, int64_t max_steps) {
    if (step < schedule.warmup_steps)
        return lr * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps);
    const double f = schedule.final_fraction;
    // Progress through updates first .. last, 1 at the last.
    const auto progress = [&](int64_t first) {
        const int64_t last = max_steps - 1;
        return last > first
                   ? std::clamp(static_cast<double>(step - first) / static_cast<double>(last - first), 0.0, 1.0)
                   : 1.0;
    };
    if (schedule.kind == "constant") return lr;
    if (schedule.kind == "cosine")
        return lr * (f + (1 - f) * 0.5 * (1 + std::cos(std::numbers::pi * progress(schedule.warmup_steps))));
    if (schedule.kind == "linear") return lr * (1 - (1 - f) * progress(schedule.warmup_steps));
    check(schedule.kind == "wsd", "schedule.kind '{}' has no formula", schedule.kind);
    const auto decay = static_cast<int64_t>(std::llround(schedule.decay_fraction * static_cast<double>(max_steps)));
    const int64_t first = std::max(schedule.warmup_steps, max_steps - decay);
    if (step < first) return lr;
    return lr * (f + (1 - f) * (1 - std::sqrt(progress(first))));
}

}  // namespace plimsoll
