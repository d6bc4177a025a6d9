#include "data/document_lengths.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "data/document_index.h"
#include "data/file.h"
#include "data/loader.h"
#include "data/token_shards.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// Every attempt to draw a document has these numbers of its own.
enum Draw : uint64_t { kKind, kLength, kKept, kReplaced, kDraws };
constexpr uint64_t kAttempts = 4096;  // a draw is refused for less than 60 % of the indices, whatever the rules

int64_t uniform_in(double u, int64_t begin, int64_t end) {
    return begin + static_cast<int64_t>(u * static_cast<double>(end - begin));
}

int64_t pretrain_length(const RandomStream& draws, uint64_t index) {
    const double kind = draws.uniform(index * kDraws + kKind), u = draws.uniform(index * kDraws + kLength);
    if (kind < 0.0083) return uniform_in(u, 32768, 124913);
    if (kind < 0.0127) return uniform_in(u, 8192, 32768);
    return static_cast<int64_t>(3040 + 1880 * draws.normal(index * kDraws + kLength));
}

int64_t prolong_length(const RandomStream& draws, uint64_t index) {
    constexpr double kAlpha = 1.3, kLow = 32768, kHigh = 340149;
    if (draws.uniform(index * kDraws + kKind) < 0.002) {
        const double u = draws.uniform(index * kDraws + kLength);
        return static_cast<int64_t>(kLow * std::pow(1 - u * (1 - std::pow(kHigh / kLow, -kAlpha)), -1 / kAlpha));
    }
    const double length = 1914 * std::exp(0.9 * draws.normal(index * kDraws + kLength));
    return length < kLow ? static_cast<int64_t>(length) : 0;
}

}  // namespace

DocumentLengths::DocumentLengths(const std::string& model, const LengthRules& rules, uint64_t seed)
    : model_(model), rules_(rules), seed_(seed) {
    if (model != "pretrain" && model != "prolong")
        fail_input("document lengths '{}' are not known, must be pretrain or prolong", brief(model));
    if (rules.context < 1) fail_input("document lengths: context is {}, must be at least 1", rules.context);
    if (!(rules.long_weight >= 0 && rules.short_weight >= 0 && rules.long_weight + rules.short_weight > 0))
        fail_input("document lengths: weights {} of long and {} of short ones, wanted at least 0 and one above",
                   rules.long_weight, rules.short_weight);
}

DocumentLengths::DocumentLengths(std::vector<int64_t> lengths, const std::string& what, const LengthRules& rules,
                                 uint64_t seed)
    : DocumentLengths("pretrain", rules, seed) {
    model_ = what;
    list_ = std::move(lengths);
    if (list_.empty()) fail_input("{}: no document lengths", what);
    if (const int64_t least = *std::ranges::min_element(list_); least < 1)
        fail_input("{}: a document of {} tokens, must be at least 1", what, least);
}

int64_t DocumentLengths::raw(const RandomStream& draws, uint64_t index) const {
    if (!list_.empty()) return list_[draws.below(index * kDraws + kLength, list_.size())];
    const bool pretrain = model_ == "pretrain";
    const int64_t length = pretrain ? pretrain_length(draws, index) : prolong_length(draws, index);
    return length >= (pretrain ? 64 : 32) ? length : 0;
}

int64_t DocumentLengths::operator()(int64_t index) const {
    const auto i = static_cast<uint64_t>(index);
    const double most = std::max(rules_.long_weight, rules_.short_weight);
    for (uint64_t attempt = 0; attempt < kAttempts; ++attempt) {
        const RandomStream draws(seed_, "document lengths", list_.empty() ? model_ : "list", attempt);
        const int64_t length = raw(draws, i);
        const bool is_long = length >= rules_.long_from;
        const double kept = (is_long ? rules_.long_weight : rules_.short_weight) / most;
        if (length == 0 || draws.uniform(i * kDraws + kKept) >= kept) continue;
        if (is_long && draws.uniform(i * kDraws + kReplaced) < rules_.replaced) return rules_.context;
        const int64_t times =
            rules_.lengthened_from > 0 ? std::max<int64_t>(1, rules_.context / rules_.lengthened_from) : 1;
        return std::min(rules_.context, length * times);
    }
    fail_input("document lengths: {} draws from {} and none is kept; are all documents of a kind with weight 0?",
               kAttempts, model_);
}

std::vector<int64_t> read_lengths(const std::string& path) {
    const std::string text = read_file(path, "document lengths");
    std::vector<int64_t> lengths;
    int64_t number = 1;
    for (size_t at = 0; at < text.size(); ++number) {
        const size_t end = std::min(text.find('\n', at), text.size());
        std::string_view line = std::string_view(text).substr(at, end - at);
        at = end + 1;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty() || line.front() == '#') continue;
        int64_t length = 0;
        const auto [rest, error] = std::from_chars(line.data(), line.data() + line.size(), length);
        if (error != std::errc() || rest != line.data() + line.size() || length < 1)
            fail_input("{}:{}: '{}', wanted the length of a document in tokens", path, number, brief(line));
        lengths.push_back(length);
    }
    return lengths;
}

std::vector<int64_t> lengths_of_corpus(const DataConfig& config, int64_t context, int64_t rows, uint64_t seed) {
    if (!config.document_mask)
        fail_input("document lengths of a corpus: data.document_mask is false; then a row is one document");
    const Loader loader(config, Split::kTrain, {.T = context, .seed = seed});
    std::vector<int64_t> lengths;
    for (int64_t row = 0; row < rows; ++row) {
        const Batch batch = loader.load(row, 1);
        for (size_t i = 1; i < batch.cu_seqlens.size(); ++i)
            lengths.push_back(batch.cu_seqlens[i] - batch.cu_seqlens[i - 1]);
    }
    return lengths;
}

std::vector<int64_t> lengths_of_shards(const std::string& pattern) {
    std::vector<int64_t> lengths;
    const std::vector<std::string> paths = match_files(pattern);
    if (paths.empty()) fail_input("document lengths: no shard matches '{}'", brief(pattern));
    for (const std::string& path : paths) {
        const int64_t tokens = TokenShard(path).size();
        const std::vector<int64_t> starts = read_document_index(path, tokens);
        for (size_t i = 0; i < starts.size(); ++i)
            lengths.push_back((i + 1 < starts.size() ? starts[i + 1] : tokens) - starts[i]);
    }
    return lengths;
}

}  // namespace plimsoll
