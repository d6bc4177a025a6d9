// The spans of an update and their factors, in the memory of the device that updates.
#pragma once

#include <memory>
#include <vector>

#include "kernels/memory.h"
#include "kernels/optimizer.h"

namespace plimsoll {

// A few hundred spans, whose places are planned once and whose factors change with every step: host code sets them, and
// upload() copies them in front of the ops that read them. Those ops can be recorded (replay.h) without it.
class UpdateTable {
  public:
    UpdateTable() = default;
    // Counts the blocks.
    explicit UpdateTable(std::vector<UpdateSpan> spans);

    // Memory of the table: a tensor of that shape, int32, on the device that updates.
    Shape shape() const;
    void place(Tensor memory) { memory_ = memory; }

    // Set by the caller before upload().
    UpdateFactors& factors(size_t span) { return spans_[span].factors; }
    // To where it was placed, in the order of exec's stream: one copy.
    void upload(const Exec& exec);

    // Neighbours from span `first` on. Valid as long as the memory is.
    UpdateSpans spans(size_t first, size_t count) const;
    // Of one span, in the device's memory.
    const UpdateFactors* factors_on_device(size_t span) const { return &on_device()[span].factors; }

  private:
    const UpdateSpan* on_device() const { return static_cast<const UpdateSpan*>(memory_.data); }

    std::vector<UpdateSpan> spans_;
    Tensor memory_;
    PinnedMemory staging_;           // what the copy reads
    std::unique_ptr<Fence> copied_;  // the device has read it
};

}  // namespace plimsoll
