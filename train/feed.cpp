#include "train/feed.h"

#include <algorithm>

namespace plimsoll {
namespace {

// Tokens, targets, positions, then document bounds, padded with n: where each part begins depends on n alone.
int64_t packed_elements(int64_t n) {
    return 4 * n + 1;
}

void pack(int32_t* to, const Batch& batch) {
    const auto n = static_cast<int32_t>(batch.tokens.size());
    for (const std::vector<int32_t>* part : {&batch.tokens, &batch.targets, &batch.positions})
        to = std::ranges::copy(*part, to).out;
    int32_t* const end = to + n + 1;
    to = std::ranges::copy(batch.cu_seqlens, to).out;
    std::fill(to, end, n);
}

}  // namespace

int64_t BatchFeed::device_bytes(int64_t tokens) {
    return packed_elements(tokens) * size_of(DType::kI32);
}

BatchFeed::BatchFeed(const Loader& data, int64_t rows, const Exec& exec)
    : data_(data), capacity_(rows * data.tokens_per_row()), exec_(exec) {
    if (exec.device == Device::kCpu) return;
    const int64_t bytes = device_bytes(capacity_);
    on_device_ = allocate_memory(exec.device, bytes, "batch");
    for (Slot& slot : slots_) {
        slot.staging = allocate_pinned(bytes, "batch");
        slot.copied = std::make_unique<Fence>(exec);
    }
}

BatchFeed::~BatchFeed() {
    for (Slot& slot : slots_)
        if (slot.loading.valid()) slot.loading.wait();
}

void BatchFeed::load(Slot& slot, int64_t first, int64_t rows) const {
    data_.load(first, rows, slot.batch, slot.sample);
    slot.first = first, slot.rows = rows;
    check(static_cast<int64_t>(slot.batch.tokens.size()) <= capacity_, "a batch of {} tokens, room for {}",
          slot.batch.tokens.size(), capacity_);
    if (!slot.copied) return;
    slot.copied->wait();
    pack(static_cast<int32_t*>(slot.staging.get()), slot.batch);
}

void BatchFeed::prefetch(int64_t first, int64_t rows) {
    const int64_t available = data_.samples_available();
    if (available >= 0 && first + rows > available) return;
    Slot& slot = slots_[1 - current_];
    slot.loading = std::async(std::launch::async, [this, &slot, first, rows] { load(slot, first, rows); });
}

ModelInput BatchFeed::next(int64_t first, int64_t rows) {
    if (exec_.device == Device::kCpu) {
        const Batch& b = (load(slots_[0], first, rows), slots_[0].batch);
        return {b.tokens, b.targets, b.positions, b.cu_seqlens};
    }
    current_ = 1 - current_;
    Slot& slot = slots_[current_];
    if (slot.loading.valid()) slot.loading.get();
    if (slot.first != first || slot.rows != rows) load(slot, first, rows);
    const auto n = static_cast<int64_t>(slot.batch.tokens.size());
    auto* device = static_cast<int32_t*>(on_device_.get());
    const Shape shape{packed_elements(n)};
    enqueue_copy(Tensor(device, DType::kI32, shape, exec_.device), Tensor(slot.staging.get(), DType::kI32, shape),
                 exec_);
    slot.copied->record();
    prefetch(first + rows, rows);
    const auto part = [&](int64_t i, int64_t count) {
        return std::span<const int32_t>(device + i * n, static_cast<size_t>(count));
    };
    return {part(0, n), part(1, n), part(2, n), part(3, n + 1)};
}

}  // namespace plimsoll
