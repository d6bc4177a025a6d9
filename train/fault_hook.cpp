#include "train/fault_hook.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <thread>

#include "kernels/error.h"

namespace plimsoll {

FaultHook FaultHook::from_environment() {
    FaultHook hook;
    const char* text = std::getenv("PLIMSOLL_FAULT");
    if (!text || !*text) return hook;
    char kind[32] = {};
    long long step = 0;
    int used = 0;
    const std::string seen = text;
    if (std::sscanf(text, "%31[a-z_]:%lld:%lf%n", kind, &step, &hook.value_, &used) == 3 &&
        static_cast<size_t>(used) == seen.size())
        hook.kind_ = kind, hook.step_ = step;
    if (hook.kind_ != "nan_gradient" && hook.kind_ != "scale_gradient" && hook.kind_ != "flip_parameter" &&
        hook.kind_ != "sleep")
        fail_input("PLIMSOLL_FAULT is '{}'; wanted nan_gradient, scale_gradient, flip_parameter or sleep :STEP:VALUE",
                   brief(seen));
    return hook;
}

bool FaultHook::fires(const char* kind, int64_t step, int rank) {
    const bool everywhere = kind_ == "scale_gradient";
    if (kind_ != kind || step != step_ || (!everywhere && rank != static_cast<int>(value_))) return false;
    kind_.clear();
    return true;
}

void FaultHook::parameters(Tensor parameters, int64_t step, int rank) {
    if (kind_ == "sleep" && step >= step_) std::this_thread::sleep_for(std::chrono::duration<double>(value_));
    if (!fires("flip_parameter", step, rank)) return;
    check(parameters.device == Device::kCpu, "PLIMSOLL_FAULT: only in host memory");
    static_cast<unsigned char*>(parameters.data)[parameters.bytes() / 2] ^= 0x10;
}

bool FaultHook::gradients(Tensor gradients, int64_t first, int64_t step, int rank) {
    const auto each = [&](auto&& change) {
        check(gradients.device == Device::kCpu, "PLIMSOLL_FAULT: only in host memory");
        if (gradients.dtype == DType::kF64)
            change(gradients.span<double>());
        else
            change(gradients.span<float>());
    };
    const bool spoils = fires("nan_gradient", step, rank), scales = fires("scale_gradient", step, rank);
    if (spoils)
        each([&]<class T>(std::span<T> g) { g[static_cast<size_t>(first)] = std::numeric_limits<T>::quiet_NaN(); });
    if (scales)
        each([&]<class T>(std::span<T> g) {
            for (T& value : g) value *= static_cast<T>(value_);
        });
    return spoils || scales;
}

}  // namespace plimsoll
