// Where and how an op runs. Passed last to every op.
#pragma once

#include "kernels/tensor.h"

namespace plimsoll {

namespace cuda {
class Context;
}
class Tracer;

// `threads` never changes a result: work is split into units whose number does not depend on it.
struct Exec {
    Device device = Device::kCpu;
    int threads = 1;
    cuda::Context* cuda = nullptr;  // the GPU's stream and scratch memory, for Device::kCuda (kernels/cuda/context.h)
    Tracer* tracer = nullptr;       // is told of every op (kernels/trace.h)
};

// What an op does with the gradient it computes: replace what is there, or add to it.
enum class Write : uint8_t { kOverwrite, kAccumulate };

}  // namespace plimsoll
