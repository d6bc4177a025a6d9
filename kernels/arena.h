// Arena: one allocation with named sub-tensors, planned before anything is allocated.
#pragma once

#include <string>
#include <vector>

#include "kernels/memory.h"

namespace plimsoll {

// Where a planned tensor lies in its arena. An invalid slot (index -1) stands for "absent" and yields an empty Tensor.
struct ArenaSlot {
    int index = -1;
    explicit operator bool() const { return index >= 0; }
};

// The list of what an arena will hold. Offsets are multiples of 64 bytes, in order of addition.
class ArenaPlan {
  public:
    struct Entry {
        std::string name;
        Shape shape;
        DType dtype;
        int64_t offset;  // bytes
        int64_t bytes;
    };
    explicit ArenaPlan(std::string name) : name_(std::move(name)) {}

    ArenaSlot add(std::string name, Shape shape, DType dtype);
    const std::string& name() const { return name_; }
    const std::vector<Entry>& entries() const { return entries_; }
    int64_t bytes() const { return bytes_; }
    double mib() const { return static_cast<double>(bytes_) / (1 << 20); }

  private:
    std::string name_;
    std::vector<Entry> entries_;
    int64_t bytes_ = 0;
};

// The allocation, on one device. It starts as zero, in Debug builds as NaN (0xff bytes) so that a read of something
// never written shows. Throws if the device has not enough memory, with figures.
class Arena {
  public:
    Arena() = default;
    explicit Arena(ArenaPlan plan, Device device = Device::kCpu);
    Tensor operator[](ArenaSlot slot) const;
    const ArenaPlan& plan() const { return plan_; }
    // Sets every byte to zero.
    void zero();

  private:
    ArenaPlan plan_{""};
    Memory memory_;
};

}  // namespace plimsoll
