// The block that is running: its threads, what they wait for, its shared memory. Internal to the emulator.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "simt/fiber.h"
#include "simt/machine.h"

namespace simt {

constexpr unsigned kMaxThreads = 1024, kWarp = 32, kBarriers = 16;
constexpr size_t kSharedBytes = 227 << 10;  // per block on sm_90; sm_80 has 163 KiB, which kernels check themselves
constexpr size_t kStaticSharedBytes = 48 << 10;    // __shared__ variables
constexpr size_t kDefaultDynamicBytes = 48 << 10;  // without the function attribute

struct AsyncCopy {
    void* destination;
    const void* source;
    unsigned bytes, source_bytes;
    const void* site;  // of the instruction, for reports
};

// A thread's variables that wgmma in flight make (sums), or read (operands in registers).
struct Lent {
    const void* begin;
    size_t bytes;
    bool readable;
};

struct Thread {
    ThreadView view;  // first: `running` points here
    FiberContext context = nullptr;
    unsigned index = 0, lane = 0, warp = 0;
    bool done = false;
    const char* waits_for = nullptr;
    std::vector<AsyncCopy> copies;  // oldest first
    std::vector<unsigned> groups;   // sizes of committed groups, oldest first
    unsigned uncommitted = 0;
    std::vector<Lent> lent;
};

// Lanes of one warp on their way into one collective.
struct Rendezvous {
    unsigned mask = 0, arrived = 0;
    WarpOperation operation = nullptr;
    const char* what = nullptr;
    Order order = Order::kNone;
    void* operands[kWarp] = {};
};

struct Warp {
    unsigned alive = 0;
    std::vector<Rendezvous> meetings;  // of disjoint masks
};

struct Barrier {
    unsigned wanted = 0;  // 0: all that are alive
    unsigned site = 0;
    std::vector<unsigned> arrived, waiting;
};

class Block {
  public:
    Block();
    // Runs every thread to its end; throws EmulationError.
    void run(const Launch& launch, Index3 index, uint64_t seed);

    Thread& current() { return threads_[current_]; }
    Thread& thread(unsigned index) { return threads_[index]; }
    // Suspends the running thread until wake(); `what` names the reason in a deadlock's report.
    void wait(const char* what);
    void wake(unsigned thread);
    // Suspends the running thread, which stays ready.
    void yield();
    [[noreturn]] void fail(const std::string& message);
    unsigned live() const { return live_; }
    uint64_t random() { return random_ = random_ * 6364136223846793005u + 1442695040888963407u, random_ >> 33; }

    Warp warps[kMaxThreads / kWarp];
    Barrier barriers[kBarriers];

    const FiberStacks& stacks() const { return stacks_; }
    uint8_t* shared_begin() const { return shared_.get(); }  // 1024-byte aligned
    size_t dynamic_bytes() const { return dynamic_bytes_; }
    size_t static_bytes() const { return static_bytes_; }
    void* static_variable(const void* key, size_t bytes, size_t alignment);

  private:
    static void thread_main();
    void finish_thread();
    void next();  // switches to a ready thread, or back to run() if there is none

    FiberStacks stacks_{kMaxThreads};
    Thread threads_[kMaxThreads];  // part of the program's image: kernels read their built-in variables here
    std::unique_ptr<uint8_t[], void (*)(uint8_t*)> shared_;
    std::unordered_map<const void*, void*> statics_;
    std::vector<unsigned> ready_;
    FiberContext main_ = nullptr;
    const Launch* launch_ = nullptr;
    std::string error_;
    unsigned current_ = 0, count_ = 0, live_ = 0;
    size_t dynamic_bytes_ = 0, static_bytes_ = 0;
    uint64_t random_ = 1;
};

// The one block there is: blocks run one after the other.
extern Block the_block;
inline Block& block() {
    return the_block;
}
// Whether a kernel's code is running, and not the emulator or the host: only then are accesses watched.
extern constinit thread_local bool in_kernel;  // of this host thread: another may be in a launcher
// On entry from a kernel: the emulator's own accesses are its own affair.
struct EnterEmulator {
    const bool before = std::exchange(in_kernel, false);
    EnterEmulator() = default;
    ~EnterEmulator() { in_kernel = before; }
    EnterEmulator(const EnterEmulator&) = delete;
};

// Releases what waits for a thread that has exited. Called once per exit.
void sync_after_exit(Thread& thread);

}  // namespace simt
