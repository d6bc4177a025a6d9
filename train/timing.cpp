#include "train/timing.h"

#include <algorithm>
#include <chrono>

#include "kernels/memory.h"

namespace plimsoll {
namespace {

const double g_process_start = now_seconds();  // before main

}  // namespace

double now_seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double process_start() {
    return g_process_start;
}

std::vector<double> repeated_seconds(const std::function<void()>& work, int repeats, const Exec& exec) {
    const int calls = exec.device == Device::kCuda ? 10 : 1;
    work();
    wait_for(exec);
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
        const double start = now_seconds();
        for (int j = 0; j < calls; ++j) work();
        wait_for(exec);
        seconds.push_back((now_seconds() - start) / calls);
    }
    return seconds;
}

double best_seconds(const std::function<void()>& work, int repeats, const Exec& exec) {
    return std::ranges::min(repeated_seconds(work, repeats, exec));
}

}  // namespace plimsoll
