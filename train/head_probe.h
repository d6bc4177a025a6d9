// Metrics of the heads of one layer: sinks (M1), first-token mass (M2), value drain (M5), logit delta (M6), activity
// (M7), entropy (M8), gates and logits (M9).
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "model/transformer.h"
#include "train/stream_probe.h"
#include "train/tensor_rows.h"

namespace plimsoll {

constexpr double kRowEpsilon = 1e-8;  // added to a row's sum before dividing by it; Gu et al., arXiv:2410.10781

// Gate of a query where it is part of core attention, which is one per head; 1 without.
double head_gate(const AttentionTensors& core, int64_t token, int64_t head);

// The (n, n) attention weights and scores of one head for one document, by the definition.
class HeadWeights {
  public:
    // Of core attention, for the n tokens from `begin`. column_scores (N, NH): logits of a key column behind it
    // (Block::column_scores), or empty.
    HeadWeights(const AttentionTensors& core, const AttentionSpec& spec, int64_t head, int64_t begin, int64_t n,
                Tensor column_scores = {});
    // Of a head of the model; with differential attention, of a score map.
    HeadWeights(const Block& block, int64_t head, int64_t begin, int64_t n);
    double weight(int64_t i, int64_t j) const { return weights_[static_cast<size_t>(i * n_ + j)]; }
    double score(int64_t i, int64_t j) const { return scores_[static_cast<size_t>(i * n_ + j)]; }
    bool visible(int64_t i, int64_t j) const { return std::isfinite(score(i, j)); }
    // Query i sees no key from here on.
    int64_t keys_end(int64_t i) const { return std::max(i + 1, i < prefix_ ? std::min(prefix_, n_) : 0); }
    // R_i = sum_j A_ij
    double row_sum(int64_t i) const;

  private:
    void take_column(int64_t i, double e);

    int64_t n_, prefix_;
    std::vector<double> weights_, scores_;
};

struct HeadMeasurement {
    int64_t head;
    NamedValues values;
};

// Measures one layer after the model's forward. Token p = 0 is the first token, or the placeholder; f = the first real
// token (k with k placeholders). Queries that see fewer than two keys are left out, and for Bigram-Backcopy those at
// triggers (they attend to the token they copy): where `is_trigger` (N) says so, empty for other data.
class LayerProbe {
  public:
    LayerProbe(const Block& block, Transformer& model, int64_t layer, const std::vector<bool>& is_trigger,
               const ModelInput& input, const Exec& exec);
    // One entry per document and head, in that order.
    std::vector<HeadMeasurement> measure(const Exec& exec) const;

  private:
    NamedValues measure_head(int64_t head, int64_t begin, int64_t n) const;
    void add_masses(NamedValues& out, const HeadWeights& weights, int64_t head, int64_t begin, int64_t n) const;
    void add_values(NamedValues& out, int64_t head, int64_t begin, int64_t n) const;
    void add_logits(NamedValues& out, const HeadWeights& weights, int64_t begin, int64_t n) const;
    void add_gates(NamedValues& out, int64_t head, int64_t begin, int64_t n) const;
    bool counted(int64_t token) const;
    double gate(int64_t token, int64_t head) const;

    const Block& block_;
    const NetworkConfig& network_;
    const std::vector<bool>& is_trigger_;
    const ModelInput& input_;
    std::vector<double> wo_value_norm_;  // (NH, N) |W_O v_t| with the head's columns of W_O
    std::vector<double> output_norm_;    // (NH, N) |gated output of the head|
};

}  // namespace plimsoll
