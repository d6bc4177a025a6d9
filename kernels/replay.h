// Work whose ops are the same each time, submitted as one.
#pragma once

#include <functional>
#include <memory>

#include "kernels/exec.h"

namespace plimsoll {

// On a GPU the first run() submits the work op by op (libraries choose their algorithms, kernels get their
// attributes), the second records it as a CUDA graph, and from then on the graph is submitted: one call instead of
// hundreds. On the CPU, and while a Tracer listens, every run() does the work.
//
// The work must submit the same ops with the same arguments to exec's stream each time, and must not wait for the
// device. The bits of its results do not depend on how it was submitted.
class Replay {
  public:
    Replay();
    ~Replay();
    Replay(Replay&&) noexcept;
    // Throws what the work throws, and Error for a device that refuses the graph.
    void run(const Exec& exec, const std::function<void()>& work);

  private:
    struct Graph;
    std::unique_ptr<Graph> graph_;
    bool warm_ = false;  // ran once
};

}  // namespace plimsoll
