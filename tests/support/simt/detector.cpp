#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "simt/block.h"
#include "simt/detector_state.h"
#include "simt/memory.h"

extern "C" char __executable_start, _end;

namespace simt {
namespace detector {
namespace {
State the_state;  // before main() nothing is watched
}  // namespace

State& state() {
    return the_state;
}

void report(const std::string& kind, const void* site, const std::string& details) {
    State& s = state();
    if (s.reports.size() < 100 && s.reported.insert({kind, site}).second) s.reports.push_back({kind, site, details});
}

std::string actor_name(unsigned actor) {
    const unsigned count = state().count;
    if (actor < count) return "thread " + std::to_string(actor);
    if (actor < count + kWarpActors) return "wgmma of warp " + std::to_string(actor - count);
    return "a bulk copy";
}

namespace {

bool inside(const void* address, size_t bytes, const void* begin, size_t size) {
    const size_t offset =
        static_cast<size_t>(static_cast<const uint8_t*>(address) - static_cast<const uint8_t*>(begin));
    return offset < size && bytes <= size - offset;
}

// Memory a kernel may touch without the detector having an opinion: its own stack, its arguments, constants and
// variables of the program.
bool is_private(const void* address, size_t bytes) {
    const State& s = state();
    return block().stacks().contains(address) || inside(address, bytes, s.arguments, s.argument_bytes) ||
           inside(address, bytes, &__executable_start, static_cast<size_t>(&_end - &__executable_start));
}

}  // namespace

Granule* find_granules(const void* address, size_t bytes, Access access, const void* site, bool& shared) {
    State& s = state();
    const char* verb = access == Access::kRead ? "read of " : "write of ";
    const uint8_t* base = block().shared_begin();
    constexpr size_t kStatics = kSharedBytes / 1024 * 1024;
    shared = inside(address, 1, base, 2 * kStatics);
    if (shared) {
        const size_t offset = static_cast<size_t>(static_cast<const uint8_t*>(address) - base);
        if (!inside(address, bytes, base, block().dynamic_bytes()) &&
            !inside(address, bytes, base + kStatics, block().static_bytes())) {
            report("outside of shared memory", site,
                   verb + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of " +
                       std::to_string(block().dynamic_bytes()));
            return nullptr;
        }
        return &s.shared[offset / 2];
    }
    Allocation* allocation = find_allocation(address);
    if (allocation && inside(address, bytes, allocation->begin, allocation->bytes)) {
        if (!allocation->granules) allocation->granules = new Granule[(allocation->bytes + 1) / 2];
        return allocation->granules + (static_cast<const uint8_t*>(address) - allocation->begin) / 2;
    }
    if (is_device_address(address)) {
        std::string place = "an address that was never allocated";
        if (allocation)
            place = "offset " + std::to_string(static_cast<const uint8_t*>(address) - allocation->begin) + " of " +
                    std::to_string(allocation->bytes) + " bytes";
        report("outside of an allocation", site, verb + std::to_string(bytes) + " bytes at " + place);
    } else if (!is_private(address, bytes)) {
        report("not device memory", site, verb + std::to_string(bytes) + " bytes of the host's memory");
    }
    return nullptr;
}

void check_write_before(const Granule& g, Access access, const void* site, bool shared) {
    State& s = state();
    const char* verb = access == Access::kRead ? " reads what " : " writes over what ";
    if (g.write_block < (shared ? s.block : s.first_block_of_launch)) return;
    if (access == Access::kAtomic && g.write_atomic) return;
    if (g.write_block != s.block)
        report("race between blocks", site, actor_name(s.thread) + verb + "another block wrote");
    else if (!s.knows(g.write_thread, g.write_clock))
        report(g.write_thread >= s.count ? "race with an asynchronous copy"
               : shared                  ? "race on shared memory"
                                         : "race on global memory",
               site, actor_name(s.thread) + verb + actor_name(g.write_thread) + " wrote");
}

void check_reads_before(const Granule& g, const void* site, bool shared) {
    State& s = state();
    if (g.read_block < (shared ? s.block : s.first_block_of_launch)) return;
    if (g.read_block != s.block) {
        report("race between blocks", site, actor_name(s.thread) + " writes over what another block read");
        return;
    }
    const auto unordered = [&](unsigned reader, uint32_t clock) {
        if (s.knows(reader, clock)) return false;
        report(shared ? "race on shared memory" : "race on global memory", site,
               actor_name(s.thread) + " writes over what " + actor_name(reader) + " read");
        return true;
    };
    if (g.readers < 0) {
        unordered(g.read_thread, g.read_clock);
        return;
    }
    const Clocks& clocks = s.reader_sets[static_cast<size_t>(g.readers)];
    for (unsigned t = 0; t < s.count; ++t)
        if (clocks[t] && unordered(t, clocks[t])) return;
}

namespace {

void remember_write(Granule& g, Access access) {
    const State& s = state();
    g.readers = -1, g.read_block = 0;
    g.write_block = s.block, g.write_clock = s.threads[s.thread].own;
    g.write_thread = static_cast<uint16_t>(s.thread);
    g.write_atomic = access == Access::kAtomic, g.written = true, g.in_flight = access == Access::kCopyIssued;
}

// One reader is enough to remember while each is ordered after the one before.
void remember_read(Granule& g) {
    State& s = state();
    const uint32_t clock = s.threads[s.thread].own;
    if (g.read_block == s.block && g.readers >= 0) {
        s.reader_sets[static_cast<size_t>(g.readers)][s.thread] = clock;
    } else if (g.read_block != s.block || s.knows(g.read_thread, g.read_clock)) {
        g.read_block = s.block, g.readers = -1;
        g.read_thread = static_cast<uint16_t>(s.thread), g.read_clock = clock;
    } else {
        g.readers = static_cast<int32_t>(s.reader_sets.size());
        Clocks& clocks = s.reader_sets.emplace_back(s.count, 0);
        clocks[g.read_thread] = g.read_clock, clocks[s.thread] = clock;
    }
}

// An access of a thread's own variables, as most are.
void check_lent(const void* address, size_t bytes, Access access, const void* site) {
    for (const Lent& lent : block().current().lent)
        if (inside(lent.begin, 1, address, bytes) || inside(address, 1, lent.begin, lent.bytes)) {
            if (access == Access::kRead && lent.readable) continue;
            report("race with wgmma", site,
                   actor_name(state().thread) + (access == Access::kRead ? " reads " : " writes ") +
                       (lent.readable ? "an operand" : "sums") + " of a wgmma in flight");
        }
}

// "file:line" of an address in this program, by addr2line where it is installed.
std::string place_of(const void* site) {
    Dl_info info{};
    if (!dladdr(site, &info)) return "?";
    const size_t offset =
        static_cast<size_t>(static_cast<const char*>(site) - static_cast<const char*>(info.dli_fbase));
    char text[512];
    std::snprintf(text, sizeof text, "addr2line -s -i -e '/proc/%d/exe' %#zx 2>/dev/null", getpid(), offset - 1);
    // Outwards through inlined functions, past the wrappers of instructions.
    std::string place;
    if (FILE* pipe = popen(text, "r")) {
        while ((place.empty() || place.find("device.cuh:") == 0 || place.find("hopper.cuh:") == 0) &&
               std::fgets(text, sizeof text, pipe))
            place = text;
        pclose(pipe);
    }
    place = place.substr(0, place.find_first_of(" \n"));
    if (!place.empty() && place[0] != '?') return place;
    std::snprintf(text, sizeof text, "program offset %#zx", offset);
    return text;
}

}  // namespace
}  // namespace detector

using namespace detector;

std::vector<std::string> take_reports() {
    std::vector<std::string> out;
    for (const Report& r : std::exchange(state().reports, {}))
        out.push_back(r.kind + ", " + place_of(r.site) + ": " + r.details);
    state().reported.clear();
    return out;
}

void note_access(const void* address, size_t bytes, Access access, const void* site) {
    if (!options().detect) return;
    statistics().accesses++;
    if (block().stacks().contains(address)) return check_lent(address, bytes, access, site);
    bool shared = false;
    Granule* granules = find_granules(address, bytes, access, site, shared);
    if (!granules) return;
    if (shared && access != Access::kRead) check_units(address, bytes, site);
    const size_t first = reinterpret_cast<uintptr_t>(address) / 2;
    const size_t last = (reinterpret_cast<uintptr_t>(address) + bytes - 1) / 2;
    for (Granule* g = granules; g <= granules + (last - first); ++g) {
        if (g->in_flight && g->write_block == state().block && access != Access::kCopyArrived)
            report("race with an asynchronous copy", site,
                   actor_name(state().thread) + " touches what a copy of " + actor_name(g->write_thread) +
                       " has not been waited for");
        if ((access == Access::kRead || access == Access::kAtomic) &&
            (shared ? g->write_block != state().block : !g->written))
            report("uninitialised", site, actor_name(state().thread) + " reads what nobody wrote");
        check_write_before(*g, access, site, shared);
        if (access == Access::kRead) {
            remember_read(*g);
        } else {
            check_reads_before(*g, site, shared);
            remember_write(*g, access);
        }
    }
}

namespace detector {

void begin_launch(const void* arguments, size_t argument_bytes) {
    State& s = state();
    s.first_block_of_launch = s.block + 1;
    s.arguments = static_cast<const uint8_t*>(arguments), s.argument_bytes = argument_bytes;
}

void begin_block(unsigned threads) {
    State& s = state();
    ++s.block;
    s.count = threads;
    s.threads.assign(threads, {});
    s.reader_sets.clear();
    if (s.shared.empty()) {
        s.shared.resize(kSharedBytes / 1024 * 1024);  // 2 bytes each, of twice as much: dynamic and static
        s.units.resize(s.shared.size() / 8);
    }
}

void set_thread(unsigned thread) {
    state().thread = thread;
}

namespace {

// `into` knows what `seen` knows.
void merge(Clocks& into, const Clocks& seen) {
    for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], seen[i]);
}

}  // namespace

void order(std::span<const unsigned> from, std::span<const unsigned> to) {
    if (!options().detect) return;
    State& s = state();
    auto seen = std::make_shared<Clocks>(s.actors(), 0);
    std::set<const Clocks*> merged;
    for (const unsigned t : from) {
        const Knowledge& k = s.threads[t];
        if (k.seen && merged.insert(k.seen.get()).second) merge(*seen, *k.seen);
    }
    for (const unsigned t : from) (*seen)[t] = std::max((*seen)[t], s.threads[t].own);
    for (const unsigned t : to) s.threads[t].seen = seen;
    for (const unsigned t : from) ++s.threads[t].own;
}

Seen publish(const Seen& base) {
    if (!options().detect) return nullptr;
    State& s = state();
    Knowledge& me = s.threads[s.thread];
    auto seen = base ? std::make_shared<Clocks>(*base) : std::make_shared<Clocks>(s.actors(), 0);
    if (me.seen) merge(*seen, *me.seen);
    (*seen)[s.thread] = me.own++;
    return seen;
}

Seen with(const Seen& base, unsigned actor, uint32_t clock) {
    if (!options().detect) return nullptr;
    auto seen = base ? std::make_shared<Clocks>(*base) : std::make_shared<Clocks>(state().actors(), 0);
    (*seen)[actor] = std::max((*seen)[actor], clock);
    return seen;
}

void learn(const Seen& seen) {
    State& s = state();
    Seen& mine = s.threads[s.thread].seen;
    if (!seen || mine == seen) return;
    // Lanes that know the same learn the same: they go on sharing one table.
    static Seen before, learned, after;
    if (!mine) {
        mine = seen;
    } else if (before == mine && learned == seen) {
        mine = after;
    } else {
        auto both = std::make_shared<Clocks>(*mine);
        merge(*both, *seen);
        before = mine, learned = seen, after = both;
        mine = std::move(both);
    }
}

void learn(std::span<const unsigned> threads, unsigned actor, uint32_t clock) {
    if (!options().detect) return;
    State& s = state();
    Seen before, after;
    for (const unsigned t : threads) {
        Seen& theirs = s.threads[t].seen;
        if (!after || before != theirs) before = theirs, after = with(theirs, actor, clock);
        theirs = after;
    }
}

uint32_t now(unsigned thread) {
    return state().threads[thread].own;
}

bool knows(unsigned thread, uint32_t clock) {
    return !options().detect || state().knows(thread, clock);
}

}  // namespace detector
}  // namespace simt
