// Fibers: the threads of an emulated block. Each has its own stack; switching costs a few nanoseconds.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

// Where a suspended fiber goes on. Opaque.
using FiberContext = void*;

// Stacks for the fibers of one block, mapped once, each with a page below it that faults on overflow.
class FiberStacks {
  public:
    static constexpr size_t kStackBytes = 256 << 10;

    explicit FiberStacks(size_t count);
    ~FiberStacks();
    FiberStacks(const FiberStacks&) = delete;

    // A fiber that will run `entry` on stack `index` when it is switched to. `entry` must never return.
    FiberContext prepare(size_t index, void (*entry)()) const;
    bool contains(const void* address) const;

  private:
    uint8_t* memory_;
    size_t bytes_;
};

// Suspends the running fiber, storing where it goes on in `from`, and goes on with `to`.
void switch_fiber(FiberContext& from, FiberContext to);

}  // namespace simt
