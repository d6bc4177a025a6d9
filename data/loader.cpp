#include "data/loader.h"

#include <algorithm>
#include <limits>

#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

constexpr int64_t kNeverReached = int64_t{1} << 60;  // samples no run will see; keeps doubling within 64 bits

RowLayout make_layout(const DataConfig& config, const LoaderOptions& options) {
    const int64_t cut = std::max(options.placeholders, options.shared_placeholders);
    if (options.T < 1) fail_input("T = {}: a row needs at least one position", options.T);
    if (options.placeholders < 0 || options.shared_placeholders < 0 || cut >= options.T) {
        fail_input("{} placeholders (largest of the comparison: {}) in rows of T = {}: wanted 0 to T - 1",
                   options.placeholders, options.shared_placeholders, options.T);
    }
    check(options.prefix >= 0, "a prefix of {} positions", options.prefix);
    return {.T = options.T,
            .placeholders = options.placeholders,
            .shared_placeholders = cut,
            .document_mask = config.document_mask,
            .prefix = options.prefix};
}

}  // namespace

Loader::Loader(const DataConfig& config, Split split, LoaderOptions options)
    : split_(split),
      layout_(make_layout(config, options)),
      sources_(open_sources(
          config,
          {.split = split, .T = options.T, .stride = options.T - layout_.shared_placeholders, .seed = options.seed})),
      mixture_(sources_.weights) {
    layout_.vocab_size = sources_.datasets.front()->vocab_size();
    const int64_t total = total_vocab_size();
    if (total > std::numeric_limits<int32_t>::max()) fail_input("{} token ids do not fit 32 bits", total);
    if (split == Split::kValidation) {
        available_ = 0;
        for (const auto& dataset : sources_.datasets) available_ += dataset->samples();
        per_epoch_ = available_;
        return;
    }
    int64_t first_end = -1;
    for (int64_t source = 0; source < static_cast<int64_t>(sources_.datasets.size()); ++source) {
        if (sources_.datasets[static_cast<size_t>(source)]->samples() < 0) continue;
        const int64_t end = exhausted_after(source);
        first_end = first_end < 0 ? end : std::min(first_end, end);
        per_epoch_ = std::max(per_epoch_, end);
    }
    if (config.end == "stop") available_ = first_end;
}

// The largest number of samples of the mixture that takes no more from `source` than one epoch.
int64_t Loader::exhausted_after(int64_t source) const {
    const int64_t samples = sources_.datasets[static_cast<size_t>(source)]->samples();
    int64_t low = samples, high = samples;  // the first `samples` take at most `samples`
    while (high < kNeverReached && mixture_->count(source, high) <= samples) high *= 2;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        (mixture_->count(source, middle) <= samples ? low : high) = middle;
    }
    return low;
}

Mixture::Place Loader::place(int64_t sample) const {
    if (split_ == Split::kTrain) return mixture_->place(sample);
    int64_t source = 0;
    for (; sample >= sources_.datasets[static_cast<size_t>(source)]->samples(); ++source) {
        sample -= sources_.datasets[static_cast<size_t>(source)]->samples();
    }
    return {.source = source, .index = sample};
}

Batch Loader::load(int64_t first_sample, int64_t count) const {
    Batch batch;
    Sample sample;
    load(first_sample, count, batch, sample);
    return batch;
}

void Loader::load(int64_t first_sample, int64_t count, Batch& batch, Sample& sample) const {
    check(first_sample >= 0 && count >= 1, "{} samples from {}", count, first_sample);
    if (available_ >= 0 && first_sample + count > available_) {
        fail_input("samples {} to {} asked for, the {} data holds {}{}", first_sample, first_sample + count - 1,
                   split_ == Split::kTrain ? "training" : "validation", available_,
                   split_ == Split::kTrain ? " with data.end = 'stop'; use data.end = 'repeat' or fewer steps" : "");
    }
    clear_batch(batch, count, layout_.T);
    sample.tokens.reserve(static_cast<size_t>(layout_.T) + 1);
    sample.document_starts.reserve(static_cast<size_t>(layout_.T));
    for (int64_t row = 0; row < count; ++row) {
        const Mixture::Place where = place(first_sample + row);
        sources_.datasets[static_cast<size_t>(where.source)]->sample(where.index, sample);
        place_sample(sample, layout_, row, batch);
    }
    close_batch(batch);
}

std::vector<int32_t> Loader::document_bounds(int64_t first_sample, int64_t count) const {
    if (layout_.document_mask) return load(first_sample, count).cu_seqlens;
    std::vector<int32_t> bounds;
    for (int64_t row = 0; row <= count; ++row) bounds.push_back(static_cast<int32_t>(row * layout_.T));
    return bounds;
}

std::string Loader::describe() const {
    std::string lines;
    for (const auto& dataset : sources_.datasets) lines += (lines.empty() ? "" : "\n") + dataset->describe();
    return lines;
}

uint64_t Loader::content_hash() const {
    std::string hashes;
    for (size_t source = 0; source < sources_.datasets.size(); ++source) {
        hashes += fmt::format("{} {:016x}\n", sources_.weights[source], sources_.datasets[source]->content_hash());
    }
    return hash_name(hashes);
}

std::string Loader::label(int32_t id) const {
    if (id >= vocab_size()) return fmt::format("<sink{}>", id - vocab_size());
    return sources_.datasets.front()->label(id);
}

}  // namespace plimsoll
