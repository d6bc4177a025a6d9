#include "simt/machine.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <utility>

#include "simt/block.h"
#include "simt/detector.h"
#include "simt/hopper.h"

namespace simt {

constinit Options the_options;
constinit Statistics the_statistics;

std::string Statistics::to_string() const {
    const auto with = [](uint64_t n, const char* name) { return std::to_string(n) + " " + name; };
    return "emulated " + with(launches, "launches, ") + with(blocks, "blocks, ") + with(threads, "threads; checked ") +
           with(accesses, "accesses, ") + with(collectives, "warp collectives, ") + with(barriers, "barriers");
}

ThreadView* running = nullptr;
constinit thread_local bool in_kernel = false;

Block the_block;

namespace {

std::map<const void*, size_t>& dynamic_limits() {
    static std::map<const void*, size_t> value;
    return value;
}

size_t product(Index3 n) {
    return size_t{n.x} * n.y * n.z;
}

void check_launch(const Launch& launch) {
    const auto refuse = [&](const std::string& why) { throw EmulationError(std::string(launch.name) + ": " + why); };
    if (product(launch.block) < 1 || product(launch.block) > kMaxThreads || launch.block.z > 64)
        refuse(std::to_string(product(launch.block)) + " threads per block, wanted 1 to 1024");
    if (product(launch.grid) < 1 || launch.grid.y > 65535 || launch.grid.z > 65535)
        refuse("a grid of " + std::to_string(launch.grid.x) + " x " + std::to_string(launch.grid.y) + " x " +
               std::to_string(launch.grid.z) + " blocks");
    const auto limit = dynamic_limits().find(launch.key);
    const size_t allowed = limit == dynamic_limits().end() ? kDefaultDynamicBytes : limit->second;
    if (launch.dynamic_shared_bytes > allowed)
        refuse(std::to_string(launch.dynamic_shared_bytes) + " bytes of dynamic shared memory, the function allows " +
               std::to_string(allowed));
}

}  // namespace

void allow_dynamic_shared(const void* kernel, size_t bytes) {
    if (bytes > kSharedBytes) throw EmulationError(std::to_string(bytes) + " bytes of shared memory, no card has them");
    dynamic_limits()[kernel] = bytes;
}

void launch(const Launch& launch) {
    if (in_kernel) throw EmulationError(std::string(launch.name) + ": launched from a kernel");
    check_launch(launch);
    statistics().launches++;
    detector::begin_launch(launch.arguments, launch.argument_bytes);
    std::vector<size_t> order(product(launch.grid));
    std::iota(order.begin(), order.end(), size_t{0});
    uint64_t seed = options().seed * 0x9e3779b97f4a7c15u + statistics().launches;
    for (size_t i = order.size(); i > 1; --i) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        std::swap(order[i - 1], order[(seed >> 33) % i]);
    }
    for (const size_t i : order) {
        const Index3 index{static_cast<unsigned>(i % launch.grid.x),
                           static_cast<unsigned>(i / launch.grid.x % launch.grid.y),
                           static_cast<unsigned>(i / (size_t{launch.grid.x} * launch.grid.y))};
        block().run(launch, index, seed + i);
    }
}

// ---- the block
// --------------------------------------------------------------------------------------------------------

Block::Block()
    : shared_(static_cast<uint8_t*>(std::aligned_alloc(1024, 2 * kSharedBytes / 1024 * 1024)),
              [](uint8_t* memory) { std::free(memory); }) {}

void Block::run(const Launch& launch, Index3 index, uint64_t seed) {
    launch_ = &launch;
    count_ = live_ = static_cast<unsigned>(product(launch.block));
    dynamic_bytes_ = launch.dynamic_shared_bytes, static_bytes_ = 0;
    random_ = seed;
    error_.clear(), ready_.clear(), statics_.clear();
    for (Warp& warp : warps) warp = {};
    for (Barrier& barrier : barriers) barrier = {};
    std::memset(shared_.get(), 0xff, dynamic_bytes_);
    for (unsigned t = 0; t < count_; ++t) {
        Thread& thread = threads_[t];
        thread.view = {
            .thread = {t % launch.block.x, t / launch.block.x % launch.block.y, t / (launch.block.x * launch.block.y)},
            .block = index,
            .block_dim = launch.block,
            .grid_dim = launch.grid};
        thread.context = stacks_.prepare(t, thread_main);
        thread.index = t, thread.lane = t % kWarp, thread.warp = t / kWarp;
        thread.done = false, thread.waits_for = nullptr;
        thread.copies.clear(), thread.groups.clear(), thread.uncommitted = 0, thread.lent.clear();
        warps[thread.warp].alive |= 1u << thread.lane;
        ready_.push_back(t);
    }
    statistics().blocks++, statistics().threads += count_;
    detector::begin_block(count_);
    begin_copies(*this);
    begin_warpgroups(*this, count_);
    current_ = kMaxThreads;  // none: next() stores where run() goes on
    next();
    in_kernel = false, running = nullptr;
    const std::string where = std::string(launch.name) + ", block (" + std::to_string(index.x) + ", " +
                              std::to_string(index.y) + ", " + std::to_string(index.z) + "), seed " +
                              std::to_string(options().seed) + ": ";
    if (!error_.empty()) throw EmulationError(where + error_);
    if (live_ == 0) {
        try {
            end_copies(*this);
            end_warpgroups(*this);
        } catch (const EmulationError& error) {
            throw EmulationError(where + error.what());
        }
        return;
    }
    std::map<std::string, int> waiting;
    for (unsigned t = 0; t < count_; ++t)
        if (!threads_[t].done)
            waiting["of warp " + std::to_string(t / kWarp) + " at " +
                    (threads_[t].waits_for ? threads_[t].waits_for : "?")]++;
    std::string list;
    for (const auto& [place, n] : waiting) list += (list.empty() ? "" : ", ") + std::to_string(n) + " " + place;
    throw EmulationError(where + "deadlock: " + list);
}

void Block::next() {
    FiberContext& here = current_ == kMaxThreads ? main_ : threads_[current_].context;
    land_copies(*this, false);
    while (ready_.empty() && land_copies(*this, true)) {
    }
    if (ready_.empty() || !error_.empty()) {
        switch_fiber(here, main_);
        return;
    }
    const size_t pick = random() % ready_.size();
    const unsigned thread = std::exchange(ready_[pick], ready_.back());
    ready_.pop_back();
    if (thread != current_) {
        current_ = thread;
        running = &threads_[thread].view;
        statistics().switches++;
        detector::set_thread(thread);
        switch_fiber(here, threads_[thread].context);
    }
}

void Block::wait(const char* what) {
    current().waits_for = what;
    next();
}

void Block::wake(unsigned thread) {
    threads_[thread].waits_for = nullptr;
    ready_.push_back(thread);
}

void Block::yield() {
    ready_.push_back(current_);
    next();
}

void Block::fail(const std::string& message) {
    throw EmulationError(message);
}

void Block::thread_main() {
    Block& b = block();
    in_kernel = true;
    try {
        b.launch_->body(b.launch_->arguments);
        in_kernel = false;
        b.finish_thread();
    } catch (const std::exception& error) {
        in_kernel = false;
        if (b.error_.empty()) b.error_ = error.what() + std::string(" (thread ") + std::to_string(b.current_) + ")";
    }
    b.next();  // never comes back: this thread is not ready any more
    std::abort();
}

void Block::finish_thread() {
    Thread& thread = current();
    thread.done = true;
    --live_;
    warps[thread.warp].alive &= ~(1u << thread.lane);
    sync_after_exit(thread);
    if (!thread.copies.empty()) fail("exits with cp.async copies it never waited for");
    end_stores(thread);
    end_wgmma(thread);
}

void* Block::static_variable(const void* key, size_t bytes, size_t alignment) {
    void*& variable = statics_[key];
    if (!variable) {
        static_bytes_ = (static_bytes_ + alignment - 1) / alignment * alignment;
        uint8_t* begin = shared_.get() + kSharedBytes / 1024 * 1024;
        if (static_bytes_ + bytes > kStaticSharedBytes)
            fail("more than 48 KiB of __shared__ variables; use dynamic shared memory");
        variable = begin + static_bytes_;
        std::memset(variable, 0xff, bytes);
        static_bytes_ += bytes;
    }
    return variable;
}

}  // namespace simt
