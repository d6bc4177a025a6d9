// The Bigram-Backcopy task: a bigram language in which a few trigger tokens demand to copy instead.
//
// Guo et al., "Active-Dormant Attention Heads" (arXiv:2410.13835), as in the authors' code. Ids 0 .. n-1 are the text's
// characters in ascending order, n is <s>, n+1 is <d> (the task delimiter's), so V = n + 2 (67 for tiny Shakespeare).
// The triggers are the k most frequent characters. A sequence is
//   s_0 = <s>,   s_1 ~ unigram without triggers, renormalised,
//   s_{n+1} = s_{n-1} if s_n is a trigger, else s_{n+1} ~ cond[s_n] (the text's bigram distribution).
// A trigger never follows a trigger, so the copied token is always a non-trigger.
//
// The authors' ablations are other tasks over the same text (data.task):
//   markov     no triggers: s_1 ~ unigram, s_{n+1} ~ cond[s_n]; nothing for attention to do.
//   backward   (theirs: dormant_markov) s_1 ~ unigram, and s_{n+1} ~ cond[s_{n-1}] if s_n is a trigger (the unigram
//              where that is <s> or nothing): attention fetches the token before, but its successor is drawn.
//   delimiter  (theirs: dormant_double_tasks) what is drawn after a non-trigger is <d> with a fixed probability, once
//   in
//              a sequence; behind <d> the language begins again under other names: id i is what i + 1 was before
//              (modulo n), triggers too.
//
// Kept as it is in the paper: a character with one successor only, such as '3' (always before a blank), is absorbing
// (3 blank 3 blank ...), so the floors below depend on T.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/bigram_counts.h"
#include "data/dataset.h"

namespace plimsoll {

struct BigramBackcopyOptions {
    int64_t T = 0;            // a sample holds T + 1 tokens
    std::string task = "bb";  // bb, markov, backward, delimiter
    int64_t triggers = 3;     // k
    double delimiter = 0.05;  // of the task delimiter: probability of <d>
    bool bos = true;          // false: no <s>, the sequence begins with s_1
    uint64_t seed = 0;
    std::string stream = "train";  // names the random stream: "validation" draws sequences disjoint from "train"
    int64_t samples = -1;          // repeated after the last; -1: fresh sequences without end
};

// What the token after `current` depends on. -1: none. Start with {} at the beginning of a sequence.
struct BackcopyState {
    int32_t previous = -1, current = -1;
    bool renamed = false;  // behind <d>
};

class BigramBackcopy final : public Dataset {
  public:
    // Throws Error (78) unless 0 <= triggers < number of distinct characters, and 0 < delimiter < 1 where it counts.
    BigramBackcopy(BigramCounts counts, BigramBackcopyOptions options);

    int64_t vocab_size() const override { return counts_.n() + 2; }
    int64_t samples() const override { return options_.samples; }
    // The first `count` tokens of a sequence, appended to `tokens`.
    void append(int64_t index, int64_t count, std::vector<int32_t>& tokens) const;
    // Drawn in integers from the counts, keyed by (seed, stream, index): equal on every machine.
    void sample(int64_t index, Sample& sample) const override;
    std::string describe() const override;
    uint64_t content_hash() const override;
    std::string label(int32_t id) const override;

    int32_t bos_token() const { return static_cast<int32_t>(counts_.n()); }
    int32_t delimiter_token() const { return bos_token() + 1; }
    // Trigger ids before any <d>, most frequent first; ties go to the smaller id. None for markov.
    const std::vector<int32_t>& triggers() const { return triggers_; }

    // One token further.
    BackcopyState after(const BackcopyState& state, int32_t token) const;
    // Whether the state's token is a trigger, where it stands.
    bool is_trigger(const BackcopyState& state) const;
    bool is_trigger(int32_t id) const { return is_trigger({.current = id}); }  // before any <d>

    // The true distribution of the next token: V probabilities that sum to one. In Bigram-Backcopy a single 1 after a
    // trigger, cond[current] otherwise, and the distribution of s_1 at <s>.
    void oracle_row(const BackcopyState& state, std::span<double> probabilities) const;

    // Expected cross-entropy in nats of the oracle, exact: dynamic programming over states. The smallest loss any model
    // can reach on T positions. Copying is deterministic, so its floor is 0 but for the task backward. Means leave out
    // the positions before `first`.
    struct Floors {
        double bigram;              // mean over the non-trigger positions, <s> and <d> included
        double bigram_without_bos;  // the same without the position of <s>
        double copy;                // mean over the trigger positions
        double overall;             // mean over all T positions
        double overall_without_bos;
        double trigger_fraction;  // expected share of the T positions that hold a trigger
    };
    Floors floors(int64_t T, int64_t first = 0) const;

  private:
    struct Masses;
    std::span<const int64_t> successors(int32_t id) const;
    // The id under which the language before <d> knows a character behind it, and the other way round.
    int32_t original(int32_t id, bool renamed) const;
    int32_t shown(int32_t id, bool renamed) const;
    // Running counts that the next token (under its original id) is drawn by; empty where it is a copy.
    std::span<const int64_t> distribution(const BackcopyState& state) const;
    bool may_delimit(const BackcopyState& state) const;  // <d> may come next

    BigramCounts counts_;
    BigramBackcopyOptions options_;
    std::vector<int32_t> triggers_;
    std::vector<bool> trigger_mask_;             // (n)
    std::vector<int64_t> first_cumulative_;      // (n) running sums of s_1's counts
    std::vector<int64_t> successor_cumulative_;  // (n, n) running sums of each row of bigrams
};

}  // namespace plimsoll
