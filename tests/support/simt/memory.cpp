#include "simt/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <new>
#include <string>

#include "simt/machine.h"

namespace simt {
namespace {

constexpr size_t kHeapBytes = size_t{1} << 38;  // of addresses; pages come into being when they are touched
constexpr size_t kAlignment = 256, kZone = 256;

struct Heap {
    uint8_t* begin = nullptr;
    size_t next = kZone;  // addresses are never used twice: what dangles is found
    size_t limit = size_t{80} << 30, in_use = 0;
    std::map<uint8_t*, Allocation> allocations;
    Allocation* last = nullptr;  // found: most accesses go where the one before went

    Heap() {
        void* memory =
            mmap(nullptr, kHeapBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        begin = static_cast<uint8_t*>(memory);
    }
};

Heap& heap() {
    static Heap value;
    return value;
}

}  // namespace

size_t& device_memory_bytes() {
    return heap().limit;
}

size_t device_memory_in_use() {
    return heap().in_use;
}

void* device_allocate(size_t bytes) {
    Heap& h = heap();
    const size_t step = (bytes + kZone + kAlignment - 1) / kAlignment * kAlignment;
    if (h.in_use + bytes > h.limit || h.next + step > kHeapBytes)
        throw EmulationError("out of device memory: " + std::to_string(bytes) + " bytes wanted, " +
                             std::to_string(h.limit - h.in_use) + " of " + std::to_string(h.limit) + " left");
    uint8_t* memory = h.begin + h.next;
    h.next += step, h.in_use += bytes;
    h.allocations[memory] = {memory, bytes, nullptr};
    std::memset(memory, 0xff, bytes + kZone);
    return memory;
}

void device_free(void* pointer) {
    if (!pointer) return;
    Heap& h = heap();
    const auto found = h.allocations.find(static_cast<uint8_t*>(pointer));
    if (found == h.allocations.end()) throw EmulationError("free of something that is no allocation, or freed already");
    h.in_use -= found->second.bytes;
    delete[] found->second.granules;
    const auto page = [](uint8_t* p) {
        return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(p) + 4095) & ~4095ul);
    };
    uint8_t* first = page(found->first);
    uint8_t* end = page(found->first + found->second.bytes + 1) - 4096;
    if (end > first) madvise(first, static_cast<size_t>(end - first), MADV_DONTNEED);
    h.last = nullptr;
    h.allocations.erase(found);
}

bool is_device_address(const void* address) {
    return static_cast<size_t>(static_cast<const uint8_t*>(address) - heap().begin) < kHeapBytes;
}

Allocation* find_allocation(const void* address) {
    if (!is_device_address(address)) return nullptr;
    Heap& h = heap();
    auto* p = static_cast<uint8_t*>(const_cast<void*>(address));
    if (h.last && p >= h.last->begin && p < h.last->begin + h.last->bytes) return h.last;
    const auto after = h.allocations.upper_bound(p);
    if (after == h.allocations.begin()) return nullptr;
    return h.last = &std::prev(after)->second;
}

void mark_written(const void* pointer, size_t bytes) {
    Allocation* allocation = find_allocation(pointer);
    if (!allocation || bytes == 0) return;
    if (!allocation->granules) allocation->granules = new Granule[(allocation->bytes + 1) / 2];
    const size_t offset = static_cast<size_t>(static_cast<const uint8_t*>(pointer) - allocation->begin);
    for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) allocation->granules[g].written = true;
}

void check_device_range(const void* pointer, size_t bytes, const char* what) {
    const Allocation* allocation = find_allocation(pointer);
    const size_t offset =
        allocation ? static_cast<size_t>(static_cast<const uint8_t*>(pointer) - allocation->begin) : 0;
    if (!allocation || offset > allocation->bytes || bytes > allocation->bytes - offset)
        throw EmulationError(std::string(what) + ": " + std::to_string(bytes) +
                             " bytes that do not lie in one allocation of the device");
}

}  // namespace simt
