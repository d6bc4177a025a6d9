// Clocks.
#pragma once

#include <functional>
#include <vector>

#include "kernels/exec.h"

namespace plimsoll {

// Seconds since some fixed moment.
double now_seconds();
// now_seconds() when this process started.
double process_start();

// Seconds of one call of `work`, measured `repeats` times after a warm-up; on a GPU each measurement is ten calls, from
// an idle device until it is idle again.
std::vector<double> repeated_seconds(const std::function<void()>& work, int repeats, const Exec& exec);
// The least of them.
double best_seconds(const std::function<void()>& work, int repeats, const Exec& exec);

}  // namespace plimsoll
