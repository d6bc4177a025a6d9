#include "data/bigram_backcopy.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/tokenizer.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

double entropy(std::span<const double> probabilities) {  // nats
    double sum = 0.0;
    for (const double p : probabilities) sum -= p > 0.0 ? p * std::log(p) : 0.0;
    return sum;
}

}  // namespace

BigramBackcopy::BigramBackcopy(BigramCounts counts, BigramBackcopyOptions options)
    : counts_(std::move(counts)), options_(std::move(options)) {
    const int64_t n = counts_.n();
    if (options_.triggers < 0 || options_.triggers >= n) {
        fail_input("data.triggers = {}: wanted 0 to {}, one less than the text's {} distinct characters",
                   options_.triggers, n - 1, n);
    }
    check(options_.T >= 1, "a Bigram-Backcopy sequence of T = {}", options_.T);
    std::vector<int32_t> by_frequency(static_cast<size_t>(n));
    std::iota(by_frequency.begin(), by_frequency.end(), 0);
    std::stable_sort(by_frequency.begin(), by_frequency.end(), [&](int32_t a, int32_t b) {
        return counts_.unigrams[static_cast<size_t>(a)] > counts_.unigrams[static_cast<size_t>(b)];
    });
    triggers_.assign(by_frequency.begin(), by_frequency.begin() + options_.triggers);
    trigger_mask_.assign(static_cast<size_t>(n), false);
    for (const int32_t id : triggers_) trigger_mask_[static_cast<size_t>(id)] = true;

    int64_t total = 0;
    for (int64_t id = 0; id < n; ++id) {
        total += trigger_mask_[static_cast<size_t>(id)] ? 0 : counts_.unigrams[static_cast<size_t>(id)];
        first_cumulative_.push_back(total);
    }
    for (int64_t first = 0; first < n; ++first) {
        // The text's very last character may have no successor; it then takes the unigram distribution.
        const auto row = std::span(counts_.bigrams).subspan(static_cast<size_t>(first * n), static_cast<size_t>(n));
        const bool has_successor = std::any_of(row.begin(), row.end(), [](int64_t count) { return count > 0; });
        total = 0;
        for (int64_t second = 0; second < n; ++second) {
            const size_t at = static_cast<size_t>(second);
            total += has_successor ? row[at] : counts_.unigrams[at];
            successor_cumulative_.push_back(total);
        }
    }
}

std::span<const int64_t> BigramBackcopy::successors(int32_t id) const {
    const size_t n = static_cast<size_t>(counts_.n());
    return std::span(successor_cumulative_).subspan(static_cast<size_t>(id) * n, n);
}

// An id drawn by running counts, with the stream's number `at`.
static int32_t draw(std::span<const int64_t> cumulative, const RandomStream& random, uint64_t at) {
    const auto ticket = static_cast<int64_t>(random.below(at, static_cast<uint64_t>(cumulative.back())));
    return static_cast<int32_t>(std::upper_bound(cumulative.begin(), cumulative.end(), ticket) - cumulative.begin());
}

bool BigramBackcopy::is_trigger(int32_t id) const {
    return id >= 0 && id < counts_.n() && trigger_mask_[static_cast<size_t>(id)];
}

void BigramBackcopy::append(int64_t index, int64_t count, std::vector<int32_t>& tokens) const {
    const RandomStream random(options_.seed, "bigram_backcopy", options_.stream, static_cast<uint64_t>(index));
    const size_t begin = tokens.size();
    const auto length = static_cast<size_t>(count);
    if (options_.bos && length > 0) tokens.push_back(bos_token());
    if (tokens.size() - begin < length) tokens.push_back(draw(first_cumulative_, random, tokens.size() - begin));
    while (tokens.size() - begin < length) {
        const size_t at = tokens.size();
        const int32_t current = tokens[at - 1];
        tokens.push_back(is_trigger(current) ? tokens[at - 2] : draw(successors(current), random, at - begin));
    }
}

void BigramBackcopy::sample(int64_t index, Sample& sample) const {
    sample.document_starts.clear();
    sample.tokens.clear();
    append(index, options_.T + 1, sample.tokens);
}

std::string BigramBackcopy::describe() const {
    std::string names;
    for (const int32_t id : triggers_) names += (names.empty() ? "" : " ") + label(id);
    return fmt::format("Bigram-Backcopy, {} ids, {} trigger{} ({}), {}, {} sequences", vocab_size(), triggers_.size(),
                       triggers_.size() == 1 ? "" : "s", names, options_.bos ? "<s> first" : "no <s>",
                       options_.samples < 0 ? "endless fresh" : fmt::format("{}", options_.samples));
}

uint64_t BigramBackcopy::content_hash() const {
    std::string facts = fmt::format("{} {} {} {}", counts_.characters, options_.triggers, options_.bos, options_.seed);
    for (const int64_t count : counts_.unigrams) facts += fmt::format(" {}", count);
    for (const int64_t count : counts_.bigrams) facts += fmt::format(" {}", count);
    return hash_name(facts);
}

std::string BigramBackcopy::label(int32_t id) const {
    check(id >= 0 && id < vocab_size(), "id {} outside the Bigram-Backcopy vocabulary of {}", id, vocab_size());
    if (id == bos_token()) return "<s>";
    if (id == bos_token() + 1) return "<d>";
    return printable(std::string_view(counts_.characters).substr(static_cast<size_t>(id), 1));
}

void BigramBackcopy::oracle_row(int32_t previous, int32_t current, std::span<double> probabilities) const {
    check(static_cast<int64_t>(probabilities.size()) == vocab_size() && current >= 0 && current <= bos_token(),
          "oracle of id {} into {} probabilities, vocabulary {}", current, probabilities.size(), vocab_size());
    std::fill(probabilities.begin(), probabilities.end(), 0.0);
    if (is_trigger(current)) {
        check(previous >= 0 && previous < counts_.n() && !is_trigger(previous), "id {} before the trigger {}", previous,
              current);
        probabilities[static_cast<size_t>(previous)] = 1.0;
        return;
    }
    const auto cumulative = current == bos_token() ? std::span<const int64_t>(first_cumulative_) : successors(current);
    int64_t before = 0;
    for (size_t id = 0; id < cumulative.size(); ++id) {
        probabilities[id] = static_cast<double>(cumulative[id] - before) / static_cast<double>(cumulative.back());
        before = cumulative[id];
    }
}

BigramBackcopy::Floors BigramBackcopy::floors(int64_t T) const {
    check(T >= 1, "floors of a sequence of T = {}", T);
    const size_t n = static_cast<size_t>(counts_.n());
    std::vector<double> row(static_cast<size_t>(vocab_size()));
    std::vector<double> cond(n * n), row_entropy(n, 0.0);
    for (size_t id = 0; id < n; ++id) {
        if (trigger_mask_[id]) continue;  // after a trigger there is no draw
        oracle_row(-1, static_cast<int32_t>(id), row);
        std::copy_n(row.begin(), n, cond.begin() + static_cast<int64_t>(id * n));
        row_entropy[id] = entropy(row);
    }
    // plain[c]: the current token is the non-trigger c. copying[c]: it is a trigger and the one before it is c, so that
    // c comes next. Which trigger it is does not matter.
    oracle_row(-1, bos_token(), row);
    std::vector<double> plain(row.begin(), row.begin() + static_cast<int64_t>(n)), copying(n, 0.0);
    const double bos_entropy = options_.bos ? entropy(row) : 0.0;
    const int64_t bos_positions = options_.bos ? 1 : 0;
    double nats = 0.0, non_triggers = 0.0;  // sums over the positions after <s>
    for (int64_t position = bos_positions; position < T; ++position) {
        std::vector<double> next(copying), next_copying(n, 0.0);
        for (size_t id = 0; id < n; ++id) {
            nats += plain[id] * row_entropy[id];
            non_triggers += plain[id];
            for (size_t to = 0; to < n; ++to) {
                const double p = plain[id] * cond[id * n + to];
                (trigger_mask_[to] ? next_copying[id] : next[to]) += p;
            }
        }
        plain.swap(next);
        copying.swap(next_copying);
    }
    const double positions = static_cast<double>(T - bos_positions);
    const auto mean = [](double sum, double count) { return count > 0.0 ? sum / count : 0.0; };
    return {.bigram = mean(nats + bos_entropy, non_triggers + static_cast<double>(bos_positions)),
            .bigram_without_bos = mean(nats, non_triggers),
            .copy = 0.0,
            .overall = (nats + bos_entropy) / static_cast<double>(T),
            .overall_without_bos = mean(nats, positions),
            .trigger_fraction = (positions - non_triggers) / static_cast<double>(T)};
}

}  // namespace plimsoll
