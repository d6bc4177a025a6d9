// The emulated device: runs the blocks of a launch one after the other, each thread of a block as a fiber, in an order
// drawn from a seed. What a kernel sees of it (threadIdx, __syncthreads, mma ...) is in include/; this header is what
// those, and the tests, stand on.
//
// Errors a GPU would not survive (divergent barriers, lanes missing from a collective, deadlock, bad launch sizes)
// throw EmulationError out of the launch. Data races and bad accesses are collected by the detector (detector.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace simt {

struct EmulationError : std::runtime_error {
    using runtime_error::runtime_error;
};

struct Index3 {
    unsigned x = 1, y = 1, z = 1;
};

struct Options {
    uint64_t seed = 1;   // of the order of blocks, and of which ready thread goes on
    bool detect = true;  // watch every access of instrumented kernels; costs about as much time again
    double preempt = 0;  // probability that a watched access lets another thread go first
};
extern constinit Options the_options;
inline Options& options() {
    return the_options;
}

// What has been emulated since the program started: a detector that watches nothing shows here.
struct Statistics {
    uint64_t launches = 0, blocks = 0, threads = 0, switches = 0, collectives = 0, barriers = 0, accesses = 0;
    std::string to_string() const;
};
extern constinit Statistics the_statistics;
inline Statistics& statistics() {
    return the_statistics;
}

// ---- for the headers in include/
// -------------------------------------------------------------------------------------

// The thread that is running: what the built-in variables read.
struct ThreadView {
    Index3 thread, block, block_dim, grid_dim;
};
extern ThreadView* running;

// A kernel launch. `key` identifies the kernel; `body(arguments)` is one thread of it.
struct Launch {
    const char* name;
    const void* key;
    Index3 grid, block;
    size_t dynamic_shared_bytes;
    void (*body)(void* arguments);
    void* arguments;
    size_t argument_bytes;
};
void launch(const Launch& launch);

// Whether lanes that meet also see each other's earlier writes. Shuffles, ldmatrix and mma promise no such thing.
enum class Order : uint8_t { kNone, kMemory };

// Meets the other lanes of `mask`; the last to come runs `operation` on everybody's operands, indexed by lane. All must
// name the same `what`.
using WarpOperation = void (*)(void** operands, unsigned mask);
void warp_collective(unsigned mask, WarpOperation operation, void* operands, const char* what, Order order);

// Named barrier `id` of 16 for `threads` threads (0: all that have not exited). Different `site`s that meet are an
// error.
void barrier(int id, int threads, int site);
// Counts towards the barrier without waiting.
void barrier_arrive(int id, int threads);

uint8_t* dynamic_shared();
// The block's copy of a __shared__ variable identified by `key`, filled with 0xff when a block starts.
void* shared_variable(const void* key, size_t bytes, size_t alignment);

// Most dynamic shared memory a kernel may ask for: 48 KiB unless raised (cudaFuncAttributeMaxDynamicSharedMemorySize).
void allow_dynamic_shared(const void* kernel, size_t bytes);

// An atomic read-modify-write of the running thread is about to happen.
void note_atomic(const void* address, size_t bytes);

// Asynchronous copies of the running thread (cp.async): the destination is poisoned until they are waited for.
void async_copy(void* destination, const void* source, unsigned bytes, unsigned source_bytes);
void async_commit();
void async_wait(unsigned groups_left);

}  // namespace simt
