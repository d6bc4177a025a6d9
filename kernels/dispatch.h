// What the dispatchers (dispatch*.cpp) share. Not included by callers of ops.
#pragma once

#include "kernels/exec.h"

namespace plimsoll {

// Throws unless the op can run where `exec` says.
inline void check_device(const Exec& exec, const char* op) {
    check(exec.device == Device::kCpu, "{}: this build has no CUDA backend", op);
    check(exec.threads >= 1, "{}: exec.threads is {}, must be at least 1", op, exec.threads);
}

}  // namespace plimsoll
