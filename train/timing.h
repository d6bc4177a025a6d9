// Clocks.
#pragma once

#include <functional>

#include "kernels/exec.h"

namespace plimsoll {

// Seconds since some fixed moment.
double now_seconds();
// now_seconds() when this process started.
double process_start();

// Seconds of one call of `work`, the best of `repeats` measurements after a warm-up; on a GPU each measurement is ten
// calls, from an idle device until it is idle again.
double best_seconds(const std::function<void()>& work, int repeats, const Exec& exec);

}  // namespace plimsoll
