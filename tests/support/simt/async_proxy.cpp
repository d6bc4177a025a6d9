#include "simt/async_proxy.h"

#include <algorithm>

#include "simt/block.h"
#include "simt/detector_state.h"

namespace simt::detector {
namespace {

size_t offset_of(const void* address) {
    return static_cast<size_t>(static_cast<const uint8_t*>(address) - block().shared_begin());
}

// A unit of the running block.
Unit& unit_at(size_t index) {
    Unit& unit = state().units[index];
    if (unit.block != state().block) unit = {.block = state().block};
    return unit;
}

// Calls f(unit, index) for the units that an access touches.
template <class F>
void for_units(const void* address, size_t bytes, F&& f) {
    const size_t begin = offset_of(address);
    for (size_t i = begin / 16; i <= (begin + bytes - 1) / 16; ++i) f(unit_at(i), i);
}

// Whether `writer` has executed a proxy fence after its clock `clock`, and the running thread has seen that.
bool knows_fence(unsigned writer, uint32_t clock) {
    const std::vector<uint32_t>& fences = state().threads[writer].fences;
    const auto first = std::lower_bound(fences.begin(), fences.end(), clock);
    return first != fences.end() && state().knows(writer, *first);
}

void check_async_read(const Granule& g, const char* what, const void* site) {
    State& s = state();
    const auto who = [&] { return actor_name(s.thread) + "'s " + what; };
    if (g.write_block != s.block) {
        report("uninitialised", site, who() + " reads what nobody wrote");
    } else if (!s.knows(g.write_thread, g.write_clock)) {
        check_write_before(g, Access::kRead, site, true);
    } else if (g.write_thread < s.count && !knows_fence(g.write_thread, g.write_clock)) {
        report("no proxy fence", site,
               who() + " reads what " + actor_name(g.write_thread) +
                   " wrote without fence.proxy.async before the barrier");
    }
}

}  // namespace

unsigned warp_actor(unsigned warp) {
    return state().count + warp;
}

unsigned barrier_actor(unsigned slot) {
    return state().count + kWarpActors + slot;
}

void fence_async_proxy() {
    if (!options().detect) return;
    Knowledge& me = state().threads[state().thread];
    me.fences.push_back(me.own++);
}

void check_units(const void* address, size_t bytes, const void* site) {
    State& s = state();
    const size_t begin = offset_of(address), end = begin + bytes;
    for_units(address, bytes, [&](Unit& unit, size_t index) {
        unit.whole = false;
        const bool lower = begin<16 * index + 8, upper = end> 16 * index + 8;
        if ((lower && unit.barriers & 1) || (upper && unit.barriers & 2))
            report("writes over an mbarrier", site, actor_name(s.thread) + " writes into it");
        if (unit.reading)
            report("race with a read under way", site,
                   actor_name(s.thread) + " writes what a wgmma or a bulk copy in flight reads");
        for (unsigned warp = 0, left = unit.warps; left; ++warp, left >>= 1)
            if ((left & 1) && !s.knows(warp_actor(warp), unit.read_clock[warp]))
                report("race with wgmma", site,
                       actor_name(s.thread) + " writes over what a wgmma of warp " + std::to_string(warp) +
                           " read, whose end it has not seen");
        unit.warps = 0;
    });
}

void copy_writes(const void* address, size_t bytes, unsigned actor, uint32_t clock, const void* site) {
    if (!options().detect) return;
    State& s = state();
    bool shared = false;
    Granule* granules = find_granules(address, bytes, Access::kWrite, site, shared);
    if (!granules) return;
    check_units(address, bytes, site);
    for_units(address, bytes, [&](Unit& unit, size_t) { unit.whole = true, unit.writer = actor, unit.clock = clock; });
    for (Granule* g = granules; g < granules + bytes / 2; ++g) {
        check_write_before(*g, Access::kWrite, site, true);
        check_reads_before(*g, site, true);
        g->readers = -1, g->read_block = 0;
        g->write_block = s.block, g->write_clock = clock, g->write_thread = static_cast<uint16_t>(actor);
        g->write_atomic = false, g->written = true, g->in_flight = false;
    }
}

void async_read_begins(const void* address, size_t bytes, const char* who, const void* site) {
    if (!options().detect) return;
    State& s = state();
    bool shared = false;
    if (!find_granules(address, bytes, Access::kRead, site, shared)) return;
    for_units(address, bytes, [&](Unit& unit, size_t index) {
        ++unit.reading;
        if (unit.whole && s.knows(unit.writer, unit.clock)) return;
        for (size_t i = 8 * index; i < 8 * index + 8; ++i) check_async_read(s.shared[i], who, site);
    });
}

void wgmma_read_ends(const void* address, size_t bytes, unsigned warp, uint32_t clock) {
    if (!options().detect) return;
    for_units(address, bytes, [&](Unit& unit, size_t) {
        --unit.reading;
        unit.warps |= 1u << warp, unit.read_clock[warp] = clock;
    });
}

void copy_read_ends(const void* address, size_t bytes, const void* site) {
    if (!options().detect) return;
    for_units(address, bytes, [&](Unit& unit, size_t) { --unit.reading; });
    note_access(address, bytes, Access::kRead, site);
}

void hold_barrier(const void* address) {
    if (options().detect) unit_at(offset_of(address) / 16).barriers |= offset_of(address) % 16 ? 2 : 1;
}

}  // namespace simt::detector
