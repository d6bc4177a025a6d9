// The Bigram-Backcopy task: a bigram language in which a few trigger tokens demand to copy instead.
//
// Guo et al., "Active-Dormant Attention Heads" (arXiv:2410.13835), as in the authors' code. Ids 0 .. n-1 are the text's
// characters in ascending order, n is <s>, n+1 is <d> (never generated), so V = n + 2 (67 for tiny Shakespeare). The
// triggers are the k most frequent characters. A sequence is
//   s_0 = <s>,   s_1 ~ unigram without triggers, renormalised,
//   s_{n+1} = s_{n-1} if s_n is a trigger, else s_{n+1} ~ cond[s_n] (the text's bigram distribution).
// A trigger never follows a trigger, so the copied token is always a non-trigger.
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
    int64_t T = 0;         // a sample holds T + 1 tokens
    int64_t triggers = 3;  // k
    bool bos = true;       // false: no <s>, the sequence begins with s_1
    uint64_t seed = 0;
    std::string stream = "train";  // names the random stream: "validation" draws sequences disjoint from "train"
    int64_t samples = -1;          // -1: fresh sequences without end
};

class BigramBackcopy final : public Dataset {
  public:
    // Throws Error (78) unless 0 <= triggers < number of distinct characters.
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
    // Trigger ids, most frequent first; ties go to the smaller id.
    const std::vector<int32_t>& triggers() const { return triggers_; }
    bool is_trigger(int32_t id) const;

    // The true distribution of the token after `current`, whose predecessor was `previous` (read only at triggers; -1
    // at the start of a sequence). Writes V probabilities that sum to one: a single 1 after a trigger, cond[current]
    // otherwise, and the distribution of s_1 at <s>.
    void oracle_row(int32_t previous, int32_t current, std::span<double> probabilities) const;

    // Expected cross-entropy in nats of the oracle, exact: dynamic programming over (previous, current). The smallest
    // loss any model can reach on T positions; copying is deterministic, so its floor is 0.
    struct Floors {
        double bigram;              // mean over the non-trigger positions, <s> included
        double bigram_without_bos;  // the same without the position of <s>
        double copy;                // mean over the trigger positions
        double overall;             // mean over all T positions
        double overall_without_bos;
        double trigger_fraction;  // expected share of the T positions that hold a trigger
    };
    Floors floors(int64_t T) const;

  private:
    std::span<const int64_t> successors(int32_t id) const;

    BigramCounts counts_;
    BigramBackcopyOptions options_;
    std::vector<int32_t> triggers_;
    std::vector<bool> trigger_mask_;             // (n)
    std::vector<int64_t> first_cumulative_;      // (n) running sums of the unigrams without triggers
    std::vector<int64_t> successor_cumulative_;  // (n, n) running sums of each row of bigrams
};

}  // namespace plimsoll
