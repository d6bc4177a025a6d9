// What the detector knows: shared by its two halves, detector.cpp (accesses of threads) and async_proxy.cpp (those of
// wgmma and of bulk copies). Internal to the emulator.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "simt/async_proxy.h"
#include "simt/detector.h"
#include "simt/memory.h"

namespace simt::detector {

using Clocks = std::vector<uint32_t>;

// What a thread has done and seen. Threads that met at a barrier share one table.
struct Knowledge {
    uint32_t own = 1;
    Seen seen;
    std::vector<uint32_t> fences;  // clocks of its proxy fences, ascending
};

struct Report {
    std::string kind;
    const void* site;
    std::string details;
};

// 16 bytes of shared memory as the async proxy sees them: what wgmma and TMA read and write at a time.
struct Unit {
    uint32_t block = 0;    // the rest holds for this block
    uint32_t writer = 0;   // where `whole`: the copy that wrote all of it
    uint32_t clock = 0;    // of that write
    uint32_t warps = 0;    // whose finished wgmma read it, at read_clock
    uint16_t reading = 0;  // reads under way
    bool whole = false;    // all of it written by one copy, and by nobody since
    uint8_t barriers = 0;  // halves that are mbarriers
    uint32_t read_clock[kWarpActors] = {};
};

struct State {
    std::vector<Knowledge> threads;
    unsigned thread = 0, count = 0;
    uint32_t block = 0, first_block_of_launch = 1;
    const uint8_t* arguments = nullptr;
    size_t argument_bytes = 0;
    std::vector<Granule> shared;
    std::vector<Unit> units;
    std::vector<Clocks> reader_sets;  // of granules with several concurrent readers
    std::vector<Report> reports;
    std::set<std::pair<std::string, const void*>> reported;

    // Threads, then warps as readers by wgmma, then mbarriers as writers by copies.
    unsigned actors() const { return count + kWarpActors + kBarrierActors; }
    bool knows(unsigned other, uint32_t clock) const {
        const Knowledge& me = threads[thread];
        return other == thread || (me.seen && (*me.seen)[other] >= clock);
    }
};
State& state();

void report(const std::string& kind, const void* site, const std::string& details);
std::string actor_name(unsigned actor);
// The granules of an access; null after reporting an access to no memory of the device.
Granule* find_granules(const void* address, size_t bytes, Access access, const void* site, bool& shared);
void check_write_before(const Granule& g, Access access, const void* site, bool shared);
void check_reads_before(const Granule& g, const void* site, bool shared);
// A write to shared memory: nothing asynchronous may be reading there, nor have read unseen.
void check_units(const void* address, size_t bytes, const void* site);

}  // namespace simt::detector
