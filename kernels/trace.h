// Where time goes: ranges with names, for profilers (NVTX) and for plimsoll's own trace (train/profile.h).
#pragma once

#include <memory>
#include <vector>

#include "kernels/exec.h"

namespace plimsoll {

struct OpWork;

// Told when work begins and ends, in nested pairs. On a GPU "begins" is when it is submitted.
class Tracer {
  public:
    virtual ~Tracer() = default;
    // `index` tells equal names apart (a layer, a micro batch); -1 without one. `name` outlives the tracer.
    virtual void begin(const char* name, int64_t index) = 0;
    virtual void end() = 0;
    // Whether it wants to be told what ops work (kernels/op_work.h). Only where ids can be read: on the CPU.
    virtual bool counts_work() const { return false; }
    // Of the op whose range begins next.
    virtual void work(const OpWork& /*work*/) {}
};

// A range from here to the end of the scope: every op has one (kernels/dispatch.h), and model/ and train/ open larger
// ones. Costs a branch, in a CUDA build also two NVTX calls, which do nothing unless a profiler listens.
class TraceRange {
  public:
    TraceRange(const Exec& exec, const char* name, int64_t index = -1);
    ~TraceRange();
    TraceRange(const TraceRange&) = delete;

  private:
    Tracer* tracer_;
};

// Points in time on the GPU's stream.
class GpuClock {
  public:
    explicit GpuClock(const Exec& exec);
    ~GpuClock();
    GpuClock(const GpuClock&) = delete;
    // Marks the stream's present end. Returns the mark's index.
    size_t mark();
    // Seconds from the first mark to each. Waits for the device.
    std::vector<double> seconds() const;

  private:
    struct Marks;
    std::unique_ptr<Marks> marks_;
};

}  // namespace plimsoll
