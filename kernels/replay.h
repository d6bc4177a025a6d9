// Work whose ops are the same each time, submitted as one.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "kernels/exec.h"

namespace plimsoll {

// On a GPU the first run() submits the work op by op (libraries choose their algorithms, kernels get their
// attributes), the second records it as a CUDA graph, and from then on the graph is submitted: one call instead of
// hundreds. On the CPU, and while a Tracer listens, every run() does the work.
//
// The work must submit the same ops with the same arguments to exec's stream each time. What cannot be recorded,
// because it waits for the device, allocates, or the driver refuses, is submitted op by op for good, and why_not() says
// why. The bits of its results do not depend on how it was submitted.
class Replay {
  public:
    Replay();
    ~Replay();
    Replay(Replay&&) noexcept;
    // Throws what the work throws.
    void run(const Exec& exec, const std::function<void()>& work);
    // Why there is no graph; empty while nothing speaks against one.
    const std::string& why_not() const { return why_not_; }

  private:
    struct Graph;
    std::unique_ptr<Graph> graph_;
    std::string why_not_;
    bool warm_ = false;  // ran once
};

}  // namespace plimsoll
