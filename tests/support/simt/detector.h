// Finds what a test's numbers may not show: data races (FastTrack: vector clocks per thread, last write and reads per
// 2 bytes), accesses outside of allocations, and reads of memory nobody wrote. Fed by the __tsan_* calls that
// -fsanitize=thread puts into kernels (hooks.cpp; libtsan is not linked) and by the emulated instructions.
//
// Within a block only barriers and __syncwarp order accesses. Between blocks of one launch nothing does: two that touch
// the same bytes, one of them writing, must both be atomic. Launches follow one another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace simt {

// An asynchronous copy writes twice: when it is issued, from when on nobody may touch its destination, and when it is
// waited for, from when on the waiting thread may.
enum class Access : uint8_t { kRead, kWrite, kAtomic, kCopyIssued, kCopyArrived };

// What was found since the last call, each place of the source once: kind, file:line (or offset in the program),
// details.
std::vector<std::string> take_reports();

// ---- for the machine
// -------------------------------------------------------------------------------------------------

// An access by the running thread from the code at `site`.
void note_access(const void* address, size_t bytes, Access access, const void* site);

namespace detector {

void begin_launch(const void* arguments, size_t argument_bytes);
void begin_block(unsigned threads);
void set_thread(unsigned thread);
// `to` have now seen everything `from` have done so far.
void order(std::span<const unsigned> from, std::span<const unsigned> to);

// What somebody has seen of everybody: a clock for each thread and each asynchronous actor (async_proxy.h); null is
// nothing. For what is handed on through an object, as by an mbarrier: who arrives publishes, who waits learns.
using Seen = std::shared_ptr<const std::vector<uint32_t>>;
// `base`, and what the running thread has done and seen so far.
Seen publish(const Seen& base);
// `base`, and an actor's work up to a clock.
Seen with(const Seen& base, unsigned actor, uint32_t clock);
// The running thread has seen this too; and these threads an actor's work up to a clock.
void learn(const Seen& seen);
void learn(std::span<const unsigned> threads, unsigned actor, uint32_t clock);
// A thread's clock, and whether the running thread has seen another's work up to a clock.
uint32_t now(unsigned thread);
bool knows(unsigned thread, uint32_t clock);

}  // namespace detector
}  // namespace simt
