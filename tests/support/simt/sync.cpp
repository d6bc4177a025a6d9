// What threads of a block do together: warp collectives, barriers, shared memory, asynchronous copies.
#include <cstdio>
#include <utility>

#include "simt/block.h"
#include "simt/detector.h"

namespace simt {
namespace {

std::string hex(unsigned mask) {
    char text[16];
    std::snprintf(text, sizeof text, "0x%08x", mask);
    return text;
}

// Runs a complete collective in the thread that came last, and lets the others go on.
void complete(Warp& warp, size_t index, unsigned first_thread, unsigned last_thread) {
    const Rendezvous meeting = warp.meetings[index];
    warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(index));
    statistics().collectives++;
    if (meeting.operation) meeting.operation(const_cast<void**>(meeting.operands), meeting.mask);
    unsigned threads[kWarp];
    size_t count = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane)
        if (meeting.mask >> lane & 1) threads[count++] = first_thread + lane;
    if (meeting.order == Order::kMemory) detector::order({threads, count}, {threads, count});
    for (size_t i = 0; i < count; ++i)
        if (threads[i] != last_thread) block().wake(threads[i]);
}

// Threads that only arrived go on without having seen the others' work.
void release(Barrier& barrier) {
    detector::order(barrier.arrived, barrier.waiting);
    for (const unsigned thread : barrier.waiting)
        if (thread != block().current().index) block().wake(thread);
    barrier = {};
}

Barrier& arrive(int id, int threads, int site) {
    Block& b = block();
    if (id < 0 || id >= static_cast<int>(kBarriers)) b.fail("barrier " + std::to_string(id) + ", there are 16");
    if (threads % static_cast<int>(kWarp))
        b.fail("barrier " + std::to_string(id) + " for " + std::to_string(threads) + " threads, not whole warps");
    Barrier& barrier = b.barriers[id];
    const unsigned wanted = static_cast<unsigned>(threads);
    if (!barrier.arrived.empty() && barrier.wanted != wanted)
        b.fail("barrier " + std::to_string(id) + ": some threads name " + std::to_string(barrier.wanted) +
               " participants, others " + std::to_string(wanted));
    if (!barrier.arrived.empty() && barrier.site != static_cast<unsigned>(site))
        b.fail("threads meet at different __syncthreads (in the order of the file: " + std::to_string(barrier.site) +
               " and " + std::to_string(site) + ")");
    barrier.wanted = wanted, barrier.site = static_cast<unsigned>(site);
    barrier.arrived.push_back(b.current().index);
    return barrier;
}

bool complete(const Barrier& barrier) {
    return !barrier.arrived.empty() && barrier.arrived.size() >= (barrier.wanted ? barrier.wanted : block().live());
}

}  // namespace

void warp_collective(unsigned mask, WarpOperation operation, void* operands, const char* what, Order order) {
    const EnterEmulator enter;
    Block& b = block();
    Thread& thread = b.current();
    Warp& warp = b.warps[thread.warp];
    if (!(mask >> thread.lane & 1))
        b.fail(std::string(what) + ": lane " + std::to_string(thread.lane) + " is not in its mask " + hex(mask));
    if (mask & ~warp.alive)
        b.fail(std::string(what) + ": lanes " + hex(mask & ~warp.alive) + " of the mask have exited");
    size_t index = 0;
    while (index < warp.meetings.size() && !(warp.meetings[index].mask & mask)) ++index;
    if (index == warp.meetings.size())
        warp.meetings.push_back({.mask = mask, .arrived = 0, .operation = operation, .what = what, .order = order});
    Rendezvous& meeting = warp.meetings[index];
    if (meeting.mask != mask || std::strcmp(meeting.what, what) != 0)
        b.fail("lanes of one warp meet in " + std::string(what) + " with mask " + hex(mask) + " and in " +
               meeting.what + " with mask " + hex(meeting.mask));
    meeting.arrived |= 1u << thread.lane;
    meeting.operands[thread.lane] = operands;
    if (meeting.arrived != mask) return b.wait(what);
    complete(warp, index, thread.warp * kWarp, thread.index);
    b.yield();
}

void barrier(int id, int threads, int site) {
    const EnterEmulator enter;
    Block& b = block();
    Barrier& barrier = arrive(id, threads, site);
    statistics().barriers++;
    barrier.waiting.push_back(b.current().index);
    if (!complete(barrier)) return b.wait("bar.sync");
    release(barrier);
    b.yield();
}

void barrier_arrive(int id, int threads) {
    const EnterEmulator enter;
    Barrier& barrier = arrive(id, threads, 0);
    if (complete(barrier)) release(barrier);
}

void sync_after_exit(Thread& thread) {
    Block& b = block();
    for (const Rendezvous& meeting : b.warps[thread.warp].meetings)
        if (meeting.mask >> thread.lane & 1)
            b.fail("lane " + std::to_string(thread.lane) + " exits while its warp waits in " + meeting.what);
    for (Barrier& barrier : b.barriers)
        if (!barrier.wanted && complete(barrier)) release(barrier);
}

uint8_t* dynamic_shared() {
    return block().shared_begin();
}

void* shared_variable(const void* key, size_t bytes, size_t alignment) {
    const EnterEmulator enter;
    return block().static_variable(key, bytes, alignment);
}

void note_atomic(const void* address, size_t bytes) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    note_access(address, bytes, Access::kAtomic, site);
}

// A copy may land at any moment between its issue and the wait: here it lands at the wait, and the destination holds
// NaNs until then. The detector sees the write twice, so that neither end may be unordered with a reader.
void async_copy(void* destination, const void* source, unsigned bytes, unsigned source_bytes) {
    const void* site = __builtin_return_address(0);
    const EnterEmulator enter;
    Thread& thread = block().current();
    if (reinterpret_cast<uintptr_t>(destination) % bytes ||
        (source_bytes && reinterpret_cast<uintptr_t>(source) % bytes))
        block().fail("cp.async of " + std::to_string(bytes) + " bytes with addresses that are no multiples of it");
    if (source_bytes) note_access(source, source_bytes, Access::kRead, site);
    note_access(destination, bytes, Access::kCopyIssued, site);
    std::memset(destination, 0xff, bytes);
    thread.copies.push_back({destination, source, bytes, source_bytes, site});
    ++thread.uncommitted;
}

void async_commit() {
    const EnterEmulator enter;
    Thread& thread = block().current();
    thread.groups.push_back(std::exchange(thread.uncommitted, 0));
}

void async_wait(unsigned groups_left) {
    const EnterEmulator enter;
    Thread& thread = block().current();
    size_t count = 0;
    while (thread.groups.size() > groups_left) {
        count += thread.groups.front();
        thread.groups.erase(thread.groups.begin());
    }
    for (size_t i = 0; i < count; ++i) {
        const AsyncCopy& copy = thread.copies[i];
        note_access(copy.destination, copy.bytes, Access::kCopyArrived, copy.site);
        std::memset(copy.destination, 0, copy.bytes);
        std::memcpy(copy.destination, copy.source, copy.source_bytes);
    }
    thread.copies.erase(thread.copies.begin(), thread.copies.begin() + static_cast<std::ptrdiff_t>(count));
}

}  // namespace simt
