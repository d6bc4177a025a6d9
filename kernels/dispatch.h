// What the dispatchers (dispatch*.cpp) share: the choice of device, and the only #if for CUDA. Not included by callers
// of ops.
#pragma once

#include "kernels/cpu/cpu.h"
#include "kernels/exec.h"
#include "kernels/op_work.h"
#include "kernels/trace.h"

#ifdef PLIMSOLL_CUDA
#include "kernels/cuda/cuda.h"
#define PLIMSOLL_CHOOSE(exec, call) (exec).device == Device::kCuda ? cuda::call : cpu::call
#else
#define PLIMSOLL_CHOOSE(exec, call) cpu::call
#endif
// A range with the op's name to the end of the block, whose work a tracer that wants it is told before:
// PLIMSOLL_TRACE(exec, op(arguments...)).
#define PLIMSOLL_TRACE(exec, call)                                                         \
    if ((exec).tracer && (exec).tracer->counts_work()) (exec).tracer->work(op_work::call); \
    const TraceRange range(exec, __func__)
// Returns what the op's implementation for exec.device returns, in such a range.
#define PLIMSOLL_RUN(exec, call) \
    PLIMSOLL_TRACE(exec, call);  \
    return PLIMSOLL_CHOOSE(exec, call)

namespace plimsoll {

// Throws unless the op can run where `exec` says.
inline void check_device(const Exec& exec, const char* op) {
#ifdef PLIMSOLL_CUDA
    check(exec.device == Device::kCpu || exec.cuda, "{}: no GPU was opened", op);
#else
    check(exec.device == Device::kCpu, "{}: this build has no CUDA backend", op);
#endif
    check(exec.threads >= 1, "{}: exec.threads is {}, must be at least 1", op, exec.threads);
}

// Throws unless `exec` is on the CPU: for ops that no other device has.
inline void check_on_cpu(const Exec& exec, const char* op) {
    check(exec.device == Device::kCpu && exec.threads >= 1, "{}: runs on the CPU only", op);
}

// The sums of squares of x.
inline void check_squares(const char* op, Tensor squares, Tensor x) {
    check(squares.shape == squares_shape(x.shape) && squares.dtype == DType::kF64 && squares.contiguous(),
          "{}: sums of squares {} in {} of a matrix {}", op, squares.shape, name_of(squares.dtype), x.shape);
}

// Whether ids (tokens, positions, cu_seqlens) and the spans of updates can be looked at here. In device memory they are
// the caller's promise.
inline bool ids_are_readable(const Exec& exec) {
    return exec.device == Device::kCpu;
}

}  // namespace plimsoll
