// mbarriers: arrivals and bytes complete a phase; a wait is for a phase's parity. Who waits has seen what happened
// before the arrivals, and what copies wrote whose bytes the phase counted.
#include "simt/mbarrier.h"

#include "simt/async_proxy.h"
#include "simt/hopper.h"

namespace simt {
namespace {

std::string name_of(const void* address) {
    return "mbarrier at offset " + std::to_string(shared_offset(address)) + " of shared memory";
}

void complete_if_done(Mbarrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.pending = barrier.count;
    ++barrier.phase;
    barrier.completed = detector::with(barrier.arriving, detector::barrier_actor(barrier.slot), barrier.phase);
    barrier.arriving = nullptr;
    for (const unsigned thread : barrier.waiting) block().wake(thread);
    barrier.waiting.clear();
}

}  // namespace

std::map<uint32_t, Mbarrier>& mbarriers() {
    static std::map<uint32_t, Mbarrier> all;
    return all;
}

Mbarrier& find_mbarrier(const void* address, const char* what) {
    const auto found = mbarriers().find(shared_offset(address));
    if (found == mbarriers().end()) block().fail(std::string(what) + ": no " + name_of(address) + " was initialised");
    Mbarrier& barrier = found->second;
    if (!detector::knows(barrier.maker, barrier.made))
        block().fail(std::string(what) + ": the initialisation of the " + name_of(address) + " is not ordered before");
    return barrier;
}

void mbarrier_init(void* address, unsigned arrivals) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    Block& b = block();
    if (reinterpret_cast<uintptr_t>(address) % 8) b.fail("mbarrier.init: an address that is not 8-byte aligned");
    if (arrivals == 0 || arrivals >= 1u << 20) b.fail("mbarrier.init: " + std::to_string(arrivals) + " arrivals");
    if (mbarriers().size() >= kBarrierActors) b.fail("mbarrier.init: the emulator keeps 64 mbarriers per block");
    note_access(address, 8, Access::kWrite, site);
    detector::hold_barrier(address);
    const unsigned me = b.current().index, slot = static_cast<unsigned>(mbarriers().size());
    const auto [entry, is_new] = mbarriers().insert({shared_offset(address), {}});
    if (!is_new) b.fail("mbarrier.init: the " + name_of(address) + " was initialised before");
    entry->second.count = entry->second.pending = arrivals;
    entry->second.slot = slot, entry->second.maker = me, entry->second.made = detector::now(me);
}

void mbarrier_init_fence() {
    const EnterEmulator enter;
    for (auto& [offset, barrier] : mbarriers())
        if (barrier.maker == block().current().index) barrier.fenced = true;
}

void mbarrier_arrive(void* address, unsigned expected_bytes) {
    const EnterEmulator enter;
    Mbarrier& barrier = find_mbarrier(address, "mbarrier.arrive");
    if (!barrier.fenced) block().fail("mbarrier.arrive: no fence.mbarrier_init after the " + name_of(address));
    if (barrier.pending == 0) block().fail("mbarrier.arrive: more arrivals than the " + name_of(address) + " counts");
    barrier.bytes += expected_bytes;
    barrier.arriving = detector::publish(barrier.arriving);
    --barrier.pending;
    complete_if_done(barrier);
    block().yield();
}

void mbarrier_wait(void* address, unsigned parity) {
    const EnterEmulator enter;
    Mbarrier& barrier = find_mbarrier(address, "mbarrier.try_wait");
    if (parity > 1) block().fail("mbarrier.try_wait: a parity of " + std::to_string(parity));
    while ((barrier.phase & 1) == parity) {
        barrier.waiting.push_back(block().current().index);
        block().wait("mbarrier.try_wait");
    }
    detector::learn(barrier.completed);
}

void complete_bytes(Mbarrier& barrier, unsigned bytes) {
    barrier.bytes -= bytes;
    complete_if_done(barrier);
}

}  // namespace simt
