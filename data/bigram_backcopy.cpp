#include "data/bigram_backcopy.h"

#include <algorithm>
#include <array>
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
    if (options_.task != "delimiter") options_.delimiter = 0;
    if (options_.task == "delimiter" && !(options_.delimiter > 0 && options_.delimiter < 1))
        fail_input("data.delimiter = {}: wanted a probability above 0 and below 1", options_.delimiter);
    std::vector<int32_t> by_frequency(static_cast<size_t>(n));
    std::iota(by_frequency.begin(), by_frequency.end(), 0);
    std::stable_sort(by_frequency.begin(), by_frequency.end(), [&](int32_t a, int32_t b) {
        return counts_.unigrams[static_cast<size_t>(a)] > counts_.unigrams[static_cast<size_t>(b)];
    });
    if (options_.task != "markov") triggers_.assign(by_frequency.begin(), by_frequency.begin() + options_.triggers);
    trigger_mask_.assign(static_cast<size_t>(n), false);
    for (const int32_t id : triggers_) trigger_mask_[static_cast<size_t>(id)] = true;

    int64_t total = 0;
    for (int64_t id = 0; id < n; ++id) {
        const bool left_out = trigger_mask_[static_cast<size_t>(id)] && options_.task != "backward";
        total += left_out ? 0 : counts_.unigrams[static_cast<size_t>(id)];
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

int32_t BigramBackcopy::original(int32_t id, bool renamed) const {
    return renamed ? static_cast<int32_t>((id + 1) % counts_.n()) : id;
}

int32_t BigramBackcopy::shown(int32_t id, bool renamed) const {
    return renamed ? static_cast<int32_t>((id + counts_.n() - 1) % counts_.n()) : id;
}

BackcopyState BigramBackcopy::after(const BackcopyState& state, int32_t token) const {
    return {.previous = state.current, .current = token, .renamed = state.renamed || token == delimiter_token()};
}

bool BigramBackcopy::is_trigger(const BackcopyState& state) const {
    return state.current >= 0 && state.current < counts_.n() &&
           trigger_mask_[static_cast<size_t>(original(state.current, state.renamed))];
}

std::span<const int64_t> BigramBackcopy::distribution(const BackcopyState& state) const {
    int32_t from = state.current;
    if (is_trigger(state)) {
        if (options_.task != "backward") return {};
        from = state.previous;
    }
    if (from < 0 || from >= counts_.n()) return first_cumulative_;  // a beginning, <s> or <d>
    return successors(original(from, state.renamed));
}

bool BigramBackcopy::may_delimit(const BackcopyState& state) const {
    return options_.delimiter > 0 && !state.renamed && state.current >= 0 && state.current != bos_token() &&
           !is_trigger(state);
}

void BigramBackcopy::append(int64_t index, int64_t count, std::vector<int32_t>& tokens) const {
    const RandomStream random(options_.seed, "bigram_backcopy", options_.stream, static_cast<uint64_t>(index));
    constexpr uint64_t kDelimiters = uint64_t{1} << 32;  // numbers of the stream that no token is drawn by
    BackcopyState state;
    for (uint64_t at = 0; at < static_cast<uint64_t>(count); ++at) {
        int32_t token = bos_token();
        if (at > 0 || !options_.bos) {
            const std::span<const int64_t> counts = distribution(state);
            if (counts.empty()) {
                token = state.previous;
            } else if (may_delimit(state) && random.uniform(kDelimiters | at) < options_.delimiter) {
                token = delimiter_token();
            } else {
                const auto ticket = static_cast<int64_t>(random.below(at, static_cast<uint64_t>(counts.back())));
                const auto drawn = std::upper_bound(counts.begin(), counts.end(), ticket) - counts.begin();
                token = shown(static_cast<int32_t>(drawn), state.renamed);
            }
        }
        tokens.push_back(token);
        state = after(state, token);
    }
}

void BigramBackcopy::sample(int64_t index, Sample& sample) const {
    sample.document_starts.clear();
    sample.tokens.clear();
    append(options_.samples > 0 ? index % options_.samples : index, options_.T + 1, sample.tokens);
}

std::string BigramBackcopy::describe() const {
    std::string names;
    for (const int32_t id : triggers_) names += (names.empty() ? "" : " ") + label(id);
    std::string task = options_.task == "bb" ? "" : fmt::format(" (task {})", options_.task);
    if (options_.task == "delimiter") task = fmt::format(" (task delimiter, <d> at {})", options_.delimiter);
    return fmt::format("Bigram-Backcopy{}, {} ids, {} trigger{} ({}), {}, {} sequences", task, vocab_size(),
                       triggers_.size(), triggers_.size() == 1 ? "" : "s", names, options_.bos ? "<s> first" : "no <s>",
                       options_.samples < 0 ? "endless fresh" : fmt::format("{}", options_.samples));
}

uint64_t BigramBackcopy::content_hash() const {
    std::string facts = fmt::format("{} {} {} {}", counts_.characters, options_.triggers, options_.bos, options_.seed);
    if (options_.samples > 0 && options_.stream == "train") facts += fmt::format(" {} samples", options_.samples);
    if (options_.task != "bb") facts += fmt::format(" {} {}", options_.task, options_.delimiter);
    for (const int64_t count : counts_.unigrams) facts += fmt::format(" {}", count);
    for (const int64_t count : counts_.bigrams) facts += fmt::format(" {}", count);
    return hash_name(facts);
}

std::string BigramBackcopy::label(int32_t id) const {
    check(id >= 0 && id < vocab_size(), "id {} outside the Bigram-Backcopy vocabulary of {}", id, vocab_size());
    if (id == bos_token()) return "<s>";
    if (id == delimiter_token()) return "<d>";
    return printable(std::string_view(counts_.characters).substr(static_cast<size_t>(id), 1));
}

void BigramBackcopy::oracle_row(const BackcopyState& state, std::span<double> probabilities) const {
    check(static_cast<int64_t>(probabilities.size()) == vocab_size() && state.current <= delimiter_token(),
          "oracle of id {} into {} probabilities, vocabulary {}", state.current, probabilities.size(), vocab_size());
    std::fill(probabilities.begin(), probabilities.end(), 0.0);
    const std::span<const int64_t> cumulative = distribution(state);
    if (cumulative.empty()) {
        check(state.previous >= 0 && state.previous < counts_.n(), "id {} before the trigger {}", state.previous,
              state.current);
        probabilities[static_cast<size_t>(state.previous)] = 1.0;
        return;
    }
    const double characters = may_delimit(state) ? 1 - options_.delimiter : 1;
    int64_t before = 0;
    for (size_t id = 0; id < cumulative.size(); ++id) {
        probabilities[static_cast<size_t>(shown(static_cast<int32_t>(id), state.renamed))] =
            characters * (static_cast<double>(cumulative[id] - before) / static_cast<double>(cumulative.back()));
        before = cumulative[id];
    }
    if (may_delimit(state)) probabilities[static_cast<size_t>(delimiter_token())] = options_.delimiter;
}

// The probability of every state at one position. Behind <d> it counts what characters were called before: the two
// languages are one.
struct BigramBackcopy::Masses {
    std::vector<double> plain;    // (n) at this character, which is no trigger
    std::vector<double> trigger;  // (n + 1, n) [previous][current]; previous n stands for <s>, <d> or nothing
    double delimiter = 0;         // at <d>

    explicit Masses(size_t n) : plain(n), trigger((n + 1) * n) {}
};

BigramBackcopy::Floors BigramBackcopy::floors(int64_t T, int64_t first) const {
    check(first >= 0 && T > first, "floors of positions {} .. {}", first, T);
    const auto n = static_cast<size_t>(counts_.n());
    // What is drawn after each character, and, row n, what is drawn first. Without <d>.
    std::vector<double> rows((n + 1) * n), entropies(n + 1);
    for (size_t from = 0; from <= n; ++from) {
        const auto cumulative = from < n ? successors(static_cast<int32_t>(from)) : std::span(first_cumulative_);
        const std::span<double> row = std::span(rows).subspan(from * n, n);
        for (size_t to = 0; to < n; ++to)
            row[to] = static_cast<double>(cumulative[to] - (to > 0 ? cumulative[to - 1] : 0)) /
                      static_cast<double>(cumulative.back());
        entropies[from] = entropy(row);
    }
    const bool copies = options_.task != "backward";
    const double p = options_.delimiter;
    const double choice[] = {1 - p, p};
    std::array<Masses, 2> here{Masses(n), Masses(n)};  // before <d>, behind it
    const auto spread = [&](Masses& to, double mass, size_t row, size_t previous) {
        if (mass == 0) return;
        for (size_t next = 0; next < n; ++next)
            (trigger_mask_[next] ? to.trigger[previous * n + next] : to.plain[next]) += mass * rows[row * n + next];
    };
    spread(here[0], 1, n, n);
    const int64_t begin = options_.bos ? 1 : 0, bos_positions = first == 0 ? begin : 0;
    const double bos_entropy = bos_positions ? entropies[n] : 0.0;
    double nats = 0.0, copy_nats = 0.0, non_triggers = 0.0, triggers = 0.0;  // sums over the positions after <s>
    for (int64_t position = begin; position < T; ++position) {
        const double scored = position < first ? 0 : 1;
        std::array<Masses, 2> next{Masses(n), Masses(n)};
        nats += scored * here[1].delimiter * entropies[n];
        non_triggers += scored * here[1].delimiter;
        spread(next[1], here[1].delimiter, n, n);
        for (size_t language = 0; language < 2; ++language) {
            const bool delimits = language == 0 && p > 0;
            for (size_t id = 0; id < n; ++id) {
                const double mass = here[language].plain[id];
                nats += scored * mass * (delimits ? (1 - p) * entropies[id] + entropy(choice) : entropies[id]);
                non_triggers += scored * mass;
                spread(next[language], delimits ? mass * (1 - p) : mass, id, id);
                if (delimits) next[1].delimiter += mass * p;
            }
            for (size_t previous = 0; previous <= n; ++previous)
                for (const int32_t trigger : triggers_) {
                    const double mass = here[language].trigger[previous * n + static_cast<size_t>(trigger)];
                    if (mass == 0) continue;
                    triggers += scored * mass;
                    if (copies) {
                        next[language].plain[previous] += mass;  // never itself a trigger
                    } else {
                        copy_nats += scored * mass * entropies[previous];
                        spread(next[language], mass, previous, static_cast<size_t>(trigger));
                    }
                }
        }
        here = std::move(next);
    }
    const double positions = static_cast<double>(T - first - bos_positions);
    const auto mean = [](double sum, double count) { return count > 0.0 ? sum / count : 0.0; };
    return {.bigram = mean(nats + bos_entropy, non_triggers + static_cast<double>(bos_positions)),
            .bigram_without_bos = mean(nats, non_triggers),
            .copy = mean(copy_nats, triggers),
            .overall = (nats + copy_nats + bos_entropy) / static_cast<double>(T - first),
            .overall_without_bos = mean(nats + copy_nats, positions),
            .trigger_fraction = triggers / static_cast<double>(T - first)};
}

}  // namespace plimsoll
