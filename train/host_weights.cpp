#include "train/host_weights.h"

#include "kernels/residual.h"

namespace plimsoll {
namespace {

Tensor as_row(Tensor t) {
    return t.reshape({1, t.elements()});
}

}  // namespace

HostWeights::HostWeights(const TrainedModel& model, Precision precision, const Exec& exec)
    : table_(model.table()), precision_(precision), parameters_(model.parameters()) {
    const Tensor stored = parameters_;
    const auto converted = [&](Memory& memory, DType dtype, const char* name) {
        memory = allocate_memory(Device::kCpu, stored.elements() * size_of(dtype), name);
        const Tensor copy(memory.get(), dtype, stored.shape);
        convert(as_row(copy), as_row(stored), exec);
        return copy;
    };
    if (stored.dtype != precision.stream()) parameters_ = converted(memory_, precision.stream(), "parameters");
    if (precision.compute == precision.stream()) return;
    working_ = converted(working_memory_, precision.compute, "working copy of the parameters");
}

}  // namespace plimsoll
