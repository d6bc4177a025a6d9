// Memory of the emulated device. Fresh memory is 0xff (NaN as a number); zones between allocations catch stray
// accesses.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

// Throws EmulationError when more than `device_memory_bytes()` would be in use.
void* device_allocate(size_t bytes);
void device_free(void* pointer);
size_t& device_memory_bytes();
size_t device_memory_in_use();

// Bytes written by a copy or a memset from the host count as initialised.
void mark_written(const void* pointer, size_t bytes);
// Throws EmulationError unless [pointer, pointer + bytes) lies in one allocation.
void check_device_range(const void* pointer, size_t bytes, const char* what);

// One allocation and the detector's state of every 2 bytes of it.
struct Granule {
    uint32_t write_block = 0, write_clock = 0;  // blocks are numbered from 1 over the program's life
    uint32_t read_block = 0, read_clock = 0;
    int32_t readers = -1;  // several concurrent readers: index of a clock per thread
    uint16_t write_thread = 0, read_thread = 0;
    bool written = false, write_atomic = false, in_flight = false;
};
struct Allocation {
    uint8_t* begin;
    size_t bytes;
    Granule* granules;  // made when the detector first needs them
};
// The allocation an address lies in, or the last one before it; null for addresses that are not the device's.
Allocation* find_allocation(const void* address);
bool is_device_address(const void* address);

}  // namespace simt
