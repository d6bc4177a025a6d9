// mbarriers of the running block: shared by mbarrier.cpp and bulk_copy.cpp. Internal to the emulator.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "simt/block.h"
#include "simt/detector.h"

namespace simt {

struct Mbarrier {
    unsigned count = 0, pending = 0;  // arrivals of a phase, and how many are still to come
    int64_t bytes = 0;                // of copies that are still to come
    uint32_t phase = 0;               // phases that are complete
    unsigned slot = 0;                // of the actor that stands for its copies
    unsigned maker = 0;               // the thread that made it, at this clock
    uint32_t made = 0;
    bool fenced = false;                 // fence.mbarrier_init followed
    detector::Seen arriving, completed;  // what who arrived had seen: in this phase, in the last one
    std::vector<unsigned> waiting;       // threads
};

// The mbarrier at an address, for the running thread. Throws if there is none or its making is not known to it.
Mbarrier& find_mbarrier(const void* address, const char* what);
// Counts bytes that have landed.
void complete_bytes(Mbarrier& barrier, unsigned bytes);

// mbarriers by their offset in shared memory.
std::map<uint32_t, Mbarrier>& mbarriers();

}  // namespace simt
