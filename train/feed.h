// Micro batches where the model reads them, the next one prepared while this one is computed.
#pragma once

#include <array>
#include <future>

#include "data/loader.h"
#include "kernels/memory.h"
#include "model/transformer.h"

namespace plimsoll {

// On the CPU, views of what the loader returned. On a GPU the batch lies at one place in device memory, whatever it
// holds, so that a recorded step (kernels/replay.h) can be submitted again: a thread loads the next batch into pinned
// memory, and the copy is queued in front of the step that reads it.
class BatchFeed {
  public:
    // For up to `rows` rows at a time. `data` must outlive the feed.
    BatchFeed(const Loader& data, int64_t rows, const Exec& exec);
    ~BatchFeed();
    // Bytes a feed takes on a GPU, for micro batches of so many tokens.
    static int64_t device_bytes(int64_t tokens);
    BatchFeed(const BatchFeed&) = delete;

    // Samples first .. first + rows - 1; valid until the next call. Calls are fastest when each begins where the last
    // one ended. Throws what Loader::load throws.
    ModelInput next(int64_t first, int64_t rows);
    // The same samples in host memory.
    const Batch& batch() const { return slots_[current_].batch; }

  private:
    struct Slot {
        Batch batch;
        Sample sample;  // on its way into the batch
        int64_t first = -1, rows = 0;
        PinnedMemory staging;
        std::unique_ptr<Fence> copied;  // the device has read `staging`
        std::future<void> loading;
    };
    void load(Slot& slot, int64_t first, int64_t rows) const;
    void prefetch(int64_t first, int64_t rows);

    const Loader& data_;
    int64_t capacity_;  // tokens
    Exec exec_;
    std::array<Slot, 2> slots_;
    size_t current_ = 0;
    Memory on_device_;
};

}  // namespace plimsoll
