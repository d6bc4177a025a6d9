#include "kernels/arena.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

namespace plimsoll {
namespace {

constexpr int64_t kAlignment = 64;               // a cache line, and one AVX-512 register
constexpr int64_t kHugePage = int64_t{2} << 20;  // x86-64 transparent huge page

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

void Arena::Free::operator()(void* p) const {
    std::free(p);
}

Arena::Arena(ArenaPlan plan) : plan_(std::move(plan)) {
    if (plan_.bytes() == 0) return;
    const int64_t bytes = round_up(plan_.bytes(), kHugePage);
    memory_.reset(std::aligned_alloc(kHugePage, static_cast<size_t>(bytes)));
    if (!memory_)
        throw Error(ExitCode::kInternal, fmt::format("arena '{}': cannot allocate {:.0f} MiB; lower train.micro_batch "
                                                     "(plimsoll plan CONFIG prints what fits)",
                                                     plan_.name(), plan_.mib()));
    madvise(memory_.get(), static_cast<size_t>(bytes), MADV_HUGEPAGE);  // a hint: failure costs speed only
#ifdef NDEBUG
    zero();
#else
    std::memset(memory_.get(), 0xff, static_cast<size_t>(plan_.bytes()));
#endif
}

Tensor Arena::operator[](ArenaSlot slot) const {
    if (!slot) return {};
    const ArenaPlan::Entry& entry = plan_.entries().at(static_cast<size_t>(slot.index));
    return Tensor(static_cast<char*>(memory_.get()) + entry.offset, entry.dtype, entry.shape);
}

void Arena::zero() {
    if (memory_) std::memset(memory_.get(), 0, static_cast<size_t>(plan_.bytes()));
}

}  // namespace plimsoll
