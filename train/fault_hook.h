// Faults on demand, for tests of what a run does about them.
#pragma once

#include <optional>
#include <string>

#include "kernels/tensor.h"

namespace plimsoll {

// From the environment variable PLIMSOLL_FAULT, "KIND:STEP:VALUE":
//   nan_gradient:12:1      NaN in the gradients that rank 1 updates with, in step 12
//   scale_gradient:12:1e4  gradients of step 12 times 1e4, on all ranks
//   flip_parameter:12:1    one bit of a parameter of rank 1 flipped before step 12
//   sleep:12:0.1           every step from the 12th takes 0.1 s longer, on all ranks
// But for the last, once per process, and only in host memory.
class FaultHook {
  public:
    // Throws Error (78) for a value of another form.
    static FaultHook from_environment();
    bool is_armed() const { return !kind_.empty(); }

    // Before a step computes; `step` counts from 1. Sleeps, if that is the fault.
    void parameters(Tensor parameters, int64_t step, int rank);
    // Once the gradients that this rank updates with, from `first` on, are complete. Returns whether it changed them.
    bool gradients(Tensor gradients, int64_t first, int64_t step, int rank);

  private:
    // Whether it is time, for the last time.
    bool fires(const char* kind, int64_t step, int rank);

    std::string kind_;
    int64_t step_ = 0;
    double value_ = 0;
};

}  // namespace plimsoll
