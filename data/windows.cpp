#include "data/windows.h"

#include <algorithm>

#include "data/permutation.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

constexpr std::string_view name_of(WindowOrder order) {
    switch (order) {
        case WindowOrder::kShuffled:
            return "shuffled windows";
        case WindowOrder::kRandom:
            return "random windows";
        case WindowOrder::kInOrder:
            return "windows in order";
    }
    return "?";
}

int64_t count_samples(const WindowOptions& options, int64_t tokens) {
    switch (options.order) {
        case WindowOrder::kShuffled:
            return std::max<int64_t>(1, tokens / options.T - 1);
        case WindowOrder::kRandom:
            return -1;
        case WindowOrder::kInOrder:
            return (tokens - 1 + options.stride - 1) / options.stride;
    }
    check(false, "window order {}", static_cast<int>(options.order));
    return 0;
}

}  // namespace

WindowDataset::WindowDataset(std::unique_ptr<const TokenStream> stream, std::shared_ptr<const Tokenizer> label_of,
                             WindowOptions options)
    : stream_(std::move(stream)), label_of_(std::move(label_of)), options_(std::move(options)) {
    const int64_t tokens = options_.end - options_.begin;
    check(options_.T >= 1 && options_.begin >= 0 && options_.end <= stream_->size(),
          "windows of T = {} over [{}, {}) of {}", options_.T, options_.begin, options_.end, stream_->size());
    check(options_.order != WindowOrder::kInOrder || (options_.stride >= 1 && options_.stride <= options_.T),
          "stride {} of windows with T = {}", options_.stride, options_.T);
    if (tokens < options_.T + 1) {
        fail_input(
            "{}: the {} part holds {} tokens, wanted at least T + 1 = {}; use more text, a smaller T, or another "
            "data.val_fraction",
            stream_->describe(), options_.order == WindowOrder::kInOrder ? "validation" : "training", tokens,
            options_.T + 1);
    }
    if (options_.document_mask && options_.eot_token < 0 && !stream_->has_document_starts()) {
        fail_input(
            "{}: data.document_mask = true, but nothing tells where documents start; set data.eot_token, or "
            "data.document_separator for a text, or put an index file (.idx) beside each shard",
            stream_->describe());
    }
    if (options_.eot_token >= vocab_size()) {
        fail_input("{}: data.eot_token = {}, wanted less than the {} ids of the vocabulary", stream_->describe(),
                   options_.eot_token, vocab_size());
    }
    samples_ = count_samples(options_, tokens);
}

int64_t WindowDataset::start_of(int64_t index) const {
    const int64_t tokens = options_.end - options_.begin;
    switch (options_.order) {
        case WindowOrder::kShuffled: {
            const uint64_t epoch = static_cast<uint64_t>(index / samples_);
            const KeyedPermutation permutation(samples_, options_.seed, options_.name, epoch);
            const int64_t room = std::min(options_.T, tokens - samples_ * options_.T);  // shifts 0 .. room - 1 all fit
            const RandomStream shifts(options_.seed, "window shift", options_.name);
            const uint64_t shift = epoch == 0 ? 0 : shifts.below(epoch, static_cast<uint64_t>(room));
            return options_.begin + static_cast<int64_t>(shift) + permutation(index % samples_) * options_.T;
        }
        case WindowOrder::kRandom: {
            const RandomStream starts(options_.seed, "window start", options_.name);
            const uint64_t places = static_cast<uint64_t>(tokens - options_.T);
            return options_.begin + static_cast<int64_t>(starts.below(static_cast<uint64_t>(index), places));
        }
        case WindowOrder::kInOrder:
            return options_.begin + index * options_.stride;
    }
    check(false, "window order {}", static_cast<int>(options_.order));
    return 0;
}

void WindowDataset::sample(int64_t index, Sample& sample) const {
    check(index >= 0 && (options_.order != WindowOrder::kInOrder || index < samples_), "sample {} of {}", index,
          samples_);
    const int64_t start = start_of(index);
    const int64_t count = std::min(options_.T + 1, options_.end - start);
    sample.tokens.resize(static_cast<size_t>(count));
    stream_->read(start, sample.tokens);
    sample.document_starts.clear();
    if (!options_.document_mask) return;
    if (options_.eot_token < 0) {
        stream_->document_starts(start + 1, count - 1, sample.document_starts);
        for (int64_t& index_in_sample : sample.document_starts) ++index_in_sample;
    } else {
        for (int64_t i = 1; i < count; ++i) {
            if (sample.tokens[static_cast<size_t>(i)] == options_.eot_token) sample.document_starts.push_back(i);
        }
    }
}

std::string WindowDataset::describe() const {
    const std::string amount = samples_ < 0 ? "no epochs" : fmt::format("{} samples per epoch", samples_);
    return fmt::format("{}; tokens [{}, {}), {}, {}{}", stream_->describe(), options_.begin, options_.end,
                       name_of(options_.order), amount, options_.document_mask ? ", documents masked" : "");
}

uint64_t WindowDataset::content_hash() const {
    return hash_name(fmt::format("{:016x} [{}, {})", stream_->content_hash(), options_.begin, options_.end));
}

std::string WindowDataset::label(int32_t id) const {
    return label_of_ ? label_of_->label(id) : fmt::format("{}", id);
}

}  // namespace plimsoll
