#include "kernels/update_table.h"

#include <cmath>
#include <cstring>

#include "kernels/error.h"

namespace plimsoll {

UpdateFactors factors_of(const AdamWSpec& spec) {
    check(spec.step >= 1, "AdamW: step is {}, counts from 1", spec.step);
    const auto step = static_cast<double>(spec.step);
    return {.gradient_scale = spec.gradient_scale,
            .decay = 1 - spec.lr * spec.weight_decay,
            .rate = spec.lr,
            .beta1 = spec.beta1,
            .beta2 = spec.beta2,
            .eps = spec.eps,
            .mean_correction = 1 / (1 - std::pow(spec.beta1, step)),
            .root_correction = 1 / std::sqrt(1 - std::pow(spec.beta2, step)),
            .corrected_rate = spec.lr / (1 - std::pow(spec.beta1, step)),
            .rounding = spec.rounding};
}

UpdateFactors factors_of(const SgdSpec& spec) {
    check(spec.step >= 1, "SGD: step is {}, counts from 1", spec.step);
    return {.gradient_scale = spec.gradient_scale,
            .rate = spec.lr,
            .momentum = spec.momentum,
            .coupled_decay = spec.weight_decay,
            .first = spec.step == 1,
            .rounding = spec.rounding};
}

UpdateTable::UpdateTable(std::vector<UpdateSpan> spans) : spans_(std::move(spans)) {
    int64_t block = 0;
    for (UpdateSpan& span : spans_) {
        span.block = block;
        block += (span.count + kUpdateBlock - 1) / kUpdateBlock;
    }
}

Shape UpdateTable::shape() const {
    static_assert(sizeof(UpdateSpan) % sizeof(int32_t) == 0);
    return {static_cast<int64_t>(spans_.size() * sizeof(UpdateSpan) / sizeof(int32_t))};
}

void UpdateTable::upload(const Exec& exec) {
    const size_t bytes = spans_.size() * sizeof(UpdateSpan);
    if (bytes == 0) return;
    check(memory_ && memory_.device == exec.device && memory_.bytes() == static_cast<int64_t>(bytes),
          "UpdateTable: placed in {} bytes, wanted {}", memory_.bytes(), bytes);
    if (exec.device == Device::kCpu) {
        std::memcpy(memory_.data, spans_.data(), bytes);
        return;
    }
    if (!copied_) {
        staging_ = allocate_pinned(memory_.bytes(), "update table");
        copied_ = std::make_unique<Fence>(exec);
    }
    copied_->wait();
    std::memcpy(staging_.get(), spans_.data(), bytes);
    enqueue_copy(memory_, Tensor(staging_.get(), memory_.dtype, memory_.shape), exec);
    copied_->record();
}

UpdateSpans UpdateTable::spans(size_t first, size_t count) const {
    const auto blocks_before = [&](size_t i) {
        return i == 0 ? 0 : spans_[i - 1].block + (spans_[i - 1].count + kUpdateBlock - 1) / kUpdateBlock;
    };
    const int64_t begin = blocks_before(first);
    return {.at = on_device() + first,
            .count = static_cast<int64_t>(count),
            .first_block = begin,
            .blocks = blocks_before(first + count) - begin};
}

}  // namespace plimsoll
