// What a warpgroup does together: wgmma, and setmaxnreg. By the PTX ISA: where operands lie in shared memory by their
// descriptors, and which lane holds which element of the sums.
//
// Each warp runs its own 16 of the 64 rows when it waits, as late as it may. Sums run in fp32 in ascending order of k.
#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include "simt/async_proxy.h"
#include "simt/block.h"
#include "simt/detector.h"
#include "simt/hopper.h"

namespace simt {
namespace {

constexpr unsigned kWarpsOfGroup = 4, kGroups = kMaxThreads / 128;
constexpr uint32_t kPoison = 0x7e57c0de;  // a finite number: what is computed from it is wrong, and not only NaN
constexpr unsigned kRegistersOfBlock = 65536, kMostEntryRegisters = 248;

// An operand in shared memory.
struct Operand {
    uint32_t start, leading, stride, swizzle;
    bool transposed;  // MN-major

    Operand(uint64_t descriptor, bool transposed)
        : start((descriptor & 0x3fff) << 4),
          leading((descriptor >> 16 & 0x3fff) << 4),
          stride((descriptor >> 32 & 0x3fff) << 4),
          swizzle(descriptor >> 62 == 1   ? 128
                  : descriptor >> 62 == 2 ? 64
                  : descriptor >> 62 == 3 ? 32
                                          : 0),
          transposed(transposed) {
        if (!swizzle) block().fail("wgmma: a descriptor without swizzling, which the emulator does not model");
        if (descriptor >> 49 & 7)
            block().fail("wgmma: a descriptor with a base offset, which the emulator does not model");
    }
    // The 16 bytes at row or column `mn` of the operand and step k of the 16: of 8 k from there, or of 8 mn if
    // transposed.
    uint32_t unit(unsigned mn, unsigned k) const {
        const unsigned columns = swizzle / 2;  // of a box
        const uint32_t offset =
            transposed ? start + mn / columns * leading + mn % columns * 2 + k / 8 * stride + k % 8 * swizzle
                       : start + mn / 8 * stride + mn % 8 * swizzle + k * 2;
        if (swizzled(offset, swizzle) + 16 > block().dynamic_bytes())
            block().fail("wgmma: its descriptor leads outside of shared memory, to offset " + std::to_string(offset));
        return swizzled(offset, swizzle);
    }
    // Calls f(offset) for the units of `count` rows or columns.
    template <class F>
    void for_units(unsigned count, F&& f) const {
        for (unsigned mn = 0; mn < count; mn += transposed ? 8 : 1)
            for (unsigned k = 0; k < 16; k += transposed ? 1 : 8) f(unit(mn, k));
    }
    // values[k * width + i] = element (first + i, k), for i < count.
    void load(float* values, unsigned width, unsigned first, unsigned count) const {
        for (unsigned mn = first; mn < first + count; mn += transposed ? 8 : 1)
            for (unsigned k = 0; k < 16; k += transposed ? 1 : 8) {
                uint16_t bits[8];
                std::memcpy(bits, block().shared_begin() + unit(mn, k), 16);
                for (unsigned e = 0; e < 8; ++e) {
                    const unsigned row = transposed ? k : k + e, column = mn - first + (transposed ? e : 0);
                    values[row * width + column] = std::bit_cast<float>(uint32_t{bits[e]} << 16);
                }
            }
    }
};

// The sums of a warp's lanes while a wgmma that makes them is in flight, 16 rows of n.
struct Sums {
    float* lanes[kWarp];
    unsigned n = 0;
    std::vector<float> values;
};

struct Operation {
    WgmmaLane first;  // of lane 0: what all lanes have in common
    const uint32_t* a[kWarp];
};

struct WarpState {
    std::vector<Operation> open;
    std::vector<std::vector<Operation>> groups;  // oldest first
    std::map<float*, Sums> sums;                 // by lane 0's
    bool fenced = false;                         // since the registers were last its own
    uint32_t clock = 0;                          // of its finished wgmma
    size_t issued = 0;
};

struct GroupState {
    std::vector<std::pair<uint64_t, uint64_t>> issued;  // descriptors; all warps issue the same
    unsigned registers = 0;
};

struct State {
    WarpState warps[kMaxThreads / kWarp];
    GroupState groups[kGroups];
    unsigned threads = 0, free_registers = 0;
    unsigned registers[kMaxThreads] = {};
    std::vector<unsigned> waiting;  // for registers
};

State& state() {
    static State value;
    return value;
}

WarpState& current_warp() {
    return state().warps[block().current().warp];
}

// Which row and column of the warp's 16 x n a lane's i-th sum is.
unsigned row_of(unsigned lane, unsigned i) {
    return lane / 4 + 8 * (i >> 1 & 1);
}
unsigned column_of(unsigned lane, unsigned i) {
    return 8 * (i >> 2) + 2 * (lane % 4) + (i & 1);
}

// What lane l of the running warp may not touch until take_back().
void lend(unsigned l, const Lent& lent) {
    block().thread(block().current().warp * kWarp + l).lent.push_back(lent);
}
void take_back(unsigned l, const void* begin) {
    std::vector<Lent>& lent = block().thread(block().current().warp * kWarp + l).lent;
    const auto found = std::find_if(lent.begin(), lent.end(), [&](const Lent& x) { return x.begin == begin; });
    if (found != lent.end()) lent.erase(found);
}

const void* issue_site = nullptr;  // of the warp collective that runs

void issue(void** lanes, unsigned) {
    Block& b = block();
    WarpState& warp = current_warp();
    Operation op{*static_cast<const WgmmaLane*>(lanes[0]), {}};
    const WgmmaLane& first = op.first;
    if (!warp.fenced) b.fail("wgmma: no wgmma.fence since the warp's registers were last read or written");
    for (unsigned l = 0; l < kWarp; ++l) {
        const auto& lane = *static_cast<const WgmmaLane*>(lanes[l]);
        if (lane.a_descriptor != first.a_descriptor || lane.b_descriptor != first.b_descriptor ||
            lane.accumulate != first.accumulate)
            b.fail("wgmma: lanes of one warp name different operands");
        op.a[l] = lane.a;
        if (lane.a) lend(l, {lane.a, 4 * sizeof(uint32_t), true});
    }
    GroupState& group = state().groups[b.current().warp / kWarpsOfGroup];
    const std::pair operands{first.a_descriptor, first.b_descriptor};
    if (warp.issued == group.issued.size())
        group.issued.push_back(operands);
    else if (group.issued[warp.issued] != operands)
        b.fail("wgmma: warps of one warpgroup name different operands");
    ++warp.issued;

    Sums& sums = warp.sums[first.sums];
    if (sums.n == 0) {
        sums.n = static_cast<unsigned>(first.n);
        sums.values.resize(16 * sums.n);
        for (unsigned l = 0; l < kWarp; ++l) {
            sums.lanes[l] = static_cast<const WgmmaLane*>(lanes[l])->sums;
            lend(l, {sums.lanes[l], sums.n / 2 * sizeof(float), false});
            for (unsigned i = 0; i < sums.n / 2; ++i) {
                sums.values[row_of(l, i) * sums.n + column_of(l, i)] = sums.lanes[l][i];
                sums.lanes[l][i] = std::bit_cast<float>(kPoison);
            }
        }
    } else if (sums.n != static_cast<unsigned>(first.n)) {
        b.fail("wgmma: sums in flight are taken up with another shape");
    }
    const auto begin = [&](uint32_t offset) {
        detector::async_read_begins(b.shared_begin() + offset, 16, "wgmma", issue_site);
    };
    // Which rows of a in shared memory a warp reads, the ISA does not say: all 64.
    if (!first.a) Operand(first.a_descriptor, first.a_transposed).for_units(64, begin);
    Operand(first.b_descriptor, first.b_transposed).for_units(sums.n, begin);
    warp.open.push_back(op);
}

void run(const Operation& op, Sums& sums) {
    static float a[16 * 16], b[16 * 256];
    const WgmmaLane& first = op.first;
    const unsigned n = sums.n, warp = block().current().warp;
    const Operand right(first.b_descriptor, first.b_transposed);
    if (first.a) {
        for (unsigned l = 0; l < kWarp; ++l)
            for (unsigned i = 0; i < 4; ++i)
                for (unsigned half = 0; half < 2; ++half)
                    a[(2 * (l % 4) + half + 8 * (i / 2)) * 16 + l / 4 + 8 * (i % 2)] =
                        std::bit_cast<float>((op.a[l][i] >> 16 * half & 0xffffu) << 16);
    } else {
        Operand(first.a_descriptor, first.a_transposed).load(a, 16, warp % kWarpsOfGroup * 16, 16);
    }
    right.load(b, n, 0, n);
    if (!first.accumulate) sums.values.assign(sums.values.size(), 0.0f);
    for (unsigned r = 0; r < 16; ++r) {
        float* const to = &sums.values[r * n];
        for (unsigned k = 0; k < 16; ++k) {
            const float factor = a[k * 16 + r];
            const float* const row = b + k * n;
            for (unsigned c = 0; c < n; ++c) to[c] += factor * row[c];
        }
    }
}

bool makes(const std::vector<Operation>& operations, const float* sums) {
    for (const Operation& op : operations)
        if (op.first.sums == sums) return true;
    return false;
}

// Runs the oldest group, and gives its lanes the sums that nothing else in flight makes.
void finish_group(WarpState& warp) {
    Block& b = block();
    const std::vector<Operation> done = std::move(warp.groups.front());
    warp.groups.erase(warp.groups.begin());
    ++warp.clock;
    for (const Operation& op : done) {
        const WgmmaLane& first = op.first;
        run(op, warp.sums.at(first.sums));
        if (first.a)
            for (unsigned l = 0; l < kWarp; ++l) take_back(l, op.a[l]);
        const auto end = [&](uint32_t offset) {
            detector::wgmma_read_ends(b.shared_begin() + offset, 16, b.current().warp, warp.clock);
        };
        if (!first.a) Operand(first.a_descriptor, first.a_transposed).for_units(64, end);
        Operand(first.b_descriptor, first.b_transposed).for_units(static_cast<unsigned>(first.n), end);
    }
    for (const Operation& op : done) {
        const auto found = warp.sums.find(op.first.sums);
        if (found == warp.sums.end() || makes(warp.open, op.first.sums)) continue;
        bool in_flight = false;
        for (const auto& group : warp.groups) in_flight = in_flight || makes(group, op.first.sums);
        if (in_flight) continue;
        const Sums& sums = found->second;
        for (unsigned l = 0; l < kWarp; ++l) {
            take_back(l, sums.lanes[l]);
            for (unsigned i = 0; i < sums.n / 2; ++i) {
                if (std::bit_cast<uint32_t>(sums.lanes[l][i]) != kPoison)
                    b.fail("wgmma: sums were written while a wgmma that makes them was in flight");
                sums.lanes[l][i] = sums.values[row_of(l, i) * sums.n + column_of(l, i)];
            }
        }
        warp.sums.erase(found);
    }
}

void wait_for_groups(void** lanes, unsigned) {
    WarpState& warp = current_warp();
    const unsigned groups_left = *static_cast<unsigned*>(lanes[0]);
    while (warp.groups.size() > groups_left) finish_group(warp);
    warp.fenced = false;
    unsigned threads[kWarp];
    for (unsigned l = 0; l < kWarp; ++l) threads[l] = block().current().warp * kWarp + l;
    detector::learn(threads, detector::warp_actor(block().current().warp), warp.clock);
}

}  // namespace

void wgmma(const WgmmaLane& lane) {
    issue_site = __builtin_return_address(0);
    WgmmaLane operand = lane;
    warp_collective(~0u, issue, &operand, "wgmma.mma_async", Order::kNone);
}

void wgmma_fence() {
    warp_collective(
        ~0u, [](void**, unsigned) { current_warp().fenced = true; }, nullptr, "wgmma.fence", Order::kNone);
}

void wgmma_commit() {
    warp_collective(
        ~0u,
        [](void**, unsigned) {
            WarpState& warp = current_warp();
            warp.groups.push_back(std::exchange(warp.open, {}));
        },
        nullptr, "wgmma.commit_group", Order::kNone);
}

void wgmma_wait(unsigned groups_left) {
    warp_collective(~0u, wait_for_groups, &groups_left, "wgmma.wait_group", Order::kNone);
}

void set_max_registers(unsigned registers, bool increase) {
    warp_collective(~0u, nullptr, nullptr, "setmaxnreg", Order::kNone);
    const EnterEmulator enter;
    Block& b = block();
    State& s = state();
    const unsigned me = b.current().index;
    unsigned& mine = s.registers[me];
    unsigned& of_group = s.groups[me / 128].registers;
    if (registers % 8 || registers < 24 || registers > 256)
        b.fail("setmaxnreg: " + std::to_string(registers) + " registers, wanted a multiple of 8 from 24 to 256");
    if (increase ? registers < mine : registers > mine)
        b.fail("setmaxnreg: from " + std::to_string(mine) + " to " + std::to_string(registers) + " registers is not " +
               (increase ? "an increase" : "a decrease"));
    if (of_group && of_group != registers) b.fail("setmaxnreg: warps of one warpgroup want different numbers");
    of_group = registers;
    while (increase && s.free_registers < registers - mine) {
        s.waiting.push_back(me);
        b.wait("setmaxnreg.inc");
    }
    s.free_registers = s.free_registers + mine - registers;
    mine = registers;
    if (increase) return;
    for (const unsigned thread : std::exchange(s.waiting, {})) b.wake(thread);
}

bool elect() {
    struct Lane {
        bool elected = false;
    } lane;
    warp_collective(
        ~0u, [](void** lanes, unsigned) { static_cast<Lane*>(lanes[block().random() % kWarp])->elected = true; }, &lane,
        "elect.sync", Order::kNone);
    return lane.elected;
}

void begin_warpgroups(Block&, unsigned threads) {
    State& s = state();
    for (unsigned w = 0; w < (s.threads + kWarp - 1) / kWarp; ++w) s.warps[w] = {};
    for (GroupState& group : s.groups) group = {};
    s.threads = threads, s.free_registers = 0;
    // What the compiler may use when it knows the block's size, which __launch_bounds__ tells it.
    const unsigned entry = std::min(kRegistersOfBlock / threads / 8 * 8, kMostEntryRegisters);
    for (unsigned t = 0; t < threads; ++t) s.registers[t] = entry;
    s.waiting.clear();
}

void end_wgmma(const Thread& thread) {
    const WarpState& warp = state().warps[thread.warp];
    if (!warp.open.empty() || !warp.groups.empty()) block().fail("exits with wgmma it never waited for");
}

void end_warpgroups(Block& b) {
    const State& s = state();
    for (unsigned w = 0; w < s.threads / kWarp; ++w)
        if (s.warps[w].issued != s.groups[w / kWarpsOfGroup].issued.size())
            b.fail("warp " + std::to_string(w) + " issued fewer wgmma than others of its warpgroup");
}

}  // namespace simt
