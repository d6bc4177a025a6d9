#include "kernels/arena.h"

namespace plimsoll {
namespace {

constexpr int64_t kAlignment = 64;  // a cache line, and one AVX-512 register

int64_t round_up(int64_t value, int64_t to) {
    return (value + to - 1) / to * to;
}

}  // namespace

ArenaSlot ArenaPlan::add(std::string name, Shape shape, DType dtype) {
    const int64_t bytes = shape.elements() * size_of(dtype);
    check(bytes >= 0, "arena '{}': '{}' has a negative size {}", name_, name, bytes);
    entries_.push_back({std::move(name), shape, dtype, bytes_, bytes});
    bytes_ += round_up(bytes, kAlignment);
    return {static_cast<int>(entries_.size()) - 1};
}

Arena::Arena(ArenaPlan plan, Device device)
    : plan_(std::move(plan)),
      memory_(allocate_memory(device, plan_.bytes(), fmt::format("arena '{}'", plan_.name()).c_str())) {
#ifdef NDEBUG
    zero();
#else
    if (memory_) set_memory(device, memory_.get(), 0xff, plan_.bytes());
#endif
}

Tensor Arena::operator[](ArenaSlot slot) const {
    if (!slot) return {};
    const ArenaPlan::Entry& entry = plan_.entries().at(static_cast<size_t>(slot.index));
    return Tensor(static_cast<char*>(memory_.get()) + entry.offset, entry.dtype, entry.shape,
                  memory_.get_deleter().device);
}

void Arena::zero() {
    if (memory_) set_memory(memory_.get_deleter().device, memory_.get(), 0, plan_.bytes());
}

}  // namespace plimsoll
