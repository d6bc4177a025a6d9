// What the heads of a trained model attend to, beyond the probes of training: columns of the weights, repeated
// sequences, and which weights the loss depends on.
#pragma once

#include <vector>

#include "train/head_probe.h"
#include "train/probes.h"

namespace plimsoll {

// The weights of one head for one document of n tokens, summed by key.
struct ColumnMasses {
    std::vector<double> received;  // (n) sum_i A_ij: cumulative attention
    // (n) mean over the queries i >= j that see j of A_ij / (sum_j A_ij + 1e-8): alpha_j   Gu et al., arXiv:2410.10781
    std::vector<double> share;
};
ColumnMasses column_masses(const HeadWeights& weights, int64_t n);

// The smallest share of the tokens that together receive half of all weight; 1 / n for a head with one sink, 1/2 where
// all receive the same. NaN where nothing is received.
double tokens_for_half(const std::vector<double>& received);

// Documents that hold a random sequence twice: k placeholders, the first real token of a probed document, then n ids,
// each once, and the same n ids again. They are ids that documents have behind their first token; n = (context - k - 1)
// / 2, or as many as there are less one.
// Targets are the next tokens; -1 at the placeholders and at the end. `groups` as Probes forwards them: there are as
// many documents here. Empty if n < 2.
struct RepeatedDocuments {
    int64_t begin = 0, n = 0;  // the first copy starts at token `begin` of a document
    std::vector<ProbeBatch> groups;
};
RepeatedDocuments repeated_documents(const std::vector<ProbeBatch>& groups, const NetworkConfig& network,
                                     uint64_t seed);

// Mean weights, row-normalised as in ColumnMasses, in such a document.
struct RepeatScores {
    double induction;  // of queries in the second copy: on the token after their own in the first (Olsson et al.,
                       // arXiv:2209.11895)
    double echo;       // of queries in the second copy: on their own token in the first
    double previous;   // of all queries of both copies: on the token before them
};
RepeatScores repeat_scores(const HeadWeights& weights, int64_t begin, int64_t n);

// Which weights of a head the loss depends on, summed over documents. L: sum of the losses of all targets.
struct HeadAttribution {
    double absolute =
        0;             // sum_ij |A_ij dL/dA_ij|                                     after Hao et al., arXiv:2004.11207
    double first = 0;  // the part of it at j = 0
    double signed_sum = 0;  // sum_ij A_ij dL/dA_ij = dL/dx of scaling the head's output by x; minus it estimates what
                            // the loss gains without the head                    Michel et al., arXiv:1905.10650
};

// Core attention that measures HeadAttribution in the backward: dL/dA_ij = g_i dout_i . v_j, g the head's gate, by the
// definition, in double. Host memory. Deterministic for any number of threads.
class AttributedAttention final : public CoreAttention {
  public:
    // `core` must outlive this.
    AttributedAttention(CoreAttention& core, int64_t layers, int64_t heads)
        : core_(core), heads_(heads), sums_(static_cast<size_t>(layers * heads)) {}

    const HeadAttribution& of(int64_t layer, int64_t head) const {
        return sums_[static_cast<size_t>(layer * heads_ + head)];
    }

    void begin_forward(const AttentionCall& call, const Exec& exec) override { core_.begin_forward(call, exec); }
    void compute_forward(const AttentionCall& call, const Exec& exec) override { core_.compute_forward(call, exec); }
    void end_forward(const AttentionCall& call, const Exec& exec) override { core_.end_forward(call, exec); }
    void begin_backward(const AttentionCall& call, const Exec& exec) override { core_.begin_backward(call, exec); }
    void compute_backward(const AttentionCall& call, const Exec& exec) override;
    void end_backward(const AttentionCall& call, const Exec& exec) override { core_.end_backward(call, exec); }

  private:
    CoreAttention& core_;
    int64_t heads_;
    std::vector<HeadAttribution> sums_;  // (layers, heads)
};

}  // namespace plimsoll
