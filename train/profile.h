// A trace of some steps: when each op and each larger part began and ended, on the CPU and on the GPU.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/op_work.h"
#include "kernels/trace.h"

namespace plimsoll {

// Steps first .. last, both included, counted from 1.
struct StepRange {
    int64_t first = 0;
    int64_t last = 0;
    bool contains(int64_t step) const { return first <= step && step <= last; }
};

// "A:B" or "A". Throws Error (78) for anything else.
StepRange parse_step_range(const std::string& text);

// Time of the ops with one name in one kind of place.
struct OpTime {
    std::string path;  // names of the ranges around it and its own: "backward block/norm_backward"
    double seconds;    // together; on a GPU by its clock
    int64_t calls;
    OpWork work = {};  // together; zero unless the profile counts work
};

// Records ranges while it is set as Exec::tracer. One thread.
class Profile : public Tracer {
  public:
    // kCounted, on the CPU only: also what every op works.
    enum class Work : uint8_t { kIgnored, kCounted };
    explicit Profile(const Exec& exec, Work work = Work::kIgnored);

    void begin(const char* name, int64_t index) override;
    void end() override;
    bool counts_work() const override { return counts_work_; }
    void work(const OpWork& work) override { next_ = work; }
    // The ranges in the Trace Event Format that chrome://tracing and ui.perfetto.dev read: process 1 the host, process
    // 2, on a GPU, the stream. Waits for the device.
    std::string chrome_trace() const;
    // Of the ranges that hold no others, in the order of their first call. Waits for the device.
    std::vector<OpTime> op_times() const;

  private:
    struct Range {
        const char* name;
        int64_t index;
        double begin, end;            // seconds since the profile began
        std::optional<size_t> outer;  // index into ranges_
        size_t gpu_begin, gpu_end;    // marks
        OpWork work;
    };

    bool counts_work_;
    double start_;
    OpWork next_;  // of the range that begins next
    std::optional<GpuClock> gpu_;
    std::vector<Range> ranges_;
    std::vector<size_t> open_;  // indices into ranges_, outermost first
};

}  // namespace plimsoll
