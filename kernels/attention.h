// Core attention: scores to weights to a weighted sum of values, and the gate behind it.
#pragma once

#include <span>
#include <string_view>

#include "kernels/exec.h"

namespace plimsoll {

// One enumerator per row of attention/variants.def.
enum class Weighting : uint8_t {
#define PLIMSOLL_VARIANT(Trait, header) k##Trait,
#include "kernels/attention/variants.def"
#undef PLIMSOLL_VARIANT
};

struct VariantInfo {
    std::string_view name;   // in configurations and reports
    std::string_view paper;  // arXiv number
    // Weights of a row sum to one: p = exp(s - lse), with lse (or, while it is being found, the running maximum) in the
    // row state. Others see each score alone.
    bool normalized;
};

// A virtual column beside the keys, with no value: what a head can attend to in order to do nothing.
enum class ExtraColumn : uint8_t {
    kNone,
    kConstant,      // its logit is AttentionSpec::extra_logit; 0 gives softmax1 (Miller 2023; "zero sink",
                    // arXiv:2309.17453)
    kLearnedLogit,  // its logit is sink_logit[h], neither scaled nor rotated (gpt-oss)
};

// What to add to every score before a weighting that does not normalise.
enum class ScoreBias : uint8_t {
    kConstant,  // AttentionSpec::score_bias, such as -log n for sigmoid (arXiv:2409.04431)
    kPerRow,    // -log of the number of keys the query sees
};

struct AttentionSpec {
    Weighting weighting = Weighting::kSoftmax;
    double scale = 1;                               // of q.k
    ExtraColumn extra_column = ExtraColumn::kNone;  // for weightings that normalise over exp(s)
    double extra_logit = 0;
    ScoreBias bias_kind = ScoreBias::kConstant;
    double score_bias = 0;
    int64_t window = 0;  // keys (i - window, i] are visible; 0 = all
    int64_t pinned = 0;  // keys j < pinned of the document are visible whatever the window
    bool alibi = false;  // scores -= 2^(-8 (h + 1) / NH) (i - j)                       Press et al., arXiv:2108.12409
};

// out_i = sum_{j<=i} p_ij v_j,  p = weighting(scale * q k^T + bias) under the spec's mask, per head and document.
// FlashAttention-2, arXiv:2307.08691, alg. 1: no (T, T) matrix in memory. For normalised weightings
//   p_ij = exp(s_ij - lse_i),  lse_i = log(exp(extra logit) + sum_j exp(s_ij)).
// What core attention reads and writes, or the gradients of that.
struct AttentionTensors {
    Tensor out;         // (N, NH, HS)
    Tensor lse;         // (NH, N) natural logarithm, in the dtype sums are kept in; for weightings that normalise
    Tensor q, k, v;     // (N, NH, HS), (N, NKV, HS) twice: one floating dtype, each with a row stride or not
    Tensor sink_logit;  // (NH) in the dtype sums are kept in; for kLearnedLogit only
    Tensor gate;        // (N, NH), before the sigmoid; empty = none
};

// out_i = sigmoid(gate_i) sum_j p_ij v_j, the factor only with a gate (G1, one per head: Qiu et al., arXiv:2505.06708).
// Key head of query head h is h / (NH / NKV). A row that sees no key has out = 0 and lse = -inf.
// cu_seqlens: where documents start among the N tokens, ascending, then N. Tiles are counted from each document's first
// token, so a document gives the same bits wherever it lies. Bits do not depend on the number of threads.
// Throws Error if NH is not a multiple of NKV, HS is not in 1..256, or shapes and dtypes disagree.
void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec);

// From d.out and what forward read and wrote: d.q, d.k, d.v and d.gate, overwritten; d.sink_logit as `write` says.
//   g_i = sigmoid(gate_i), 1 without;  delta_i = sum_c dout_ic out_ic;  dp_ij = g_i dout_i . v_j;
//   ds_ij = dscore(p_ij, dp_ij, delta_i, row_i);  dv_j = sum_i p_ij g_i dout_i;  dq_i = scale sum_j ds_ij k_j;
//   dk_j = scale sum_i ds_ij q_i;  dsink_logit_h = -sum_i exp(sink_logit_h - lse_i) delta_i;
//   dgate_i = delta_i (1 - g_i), because out_i = g_i y_i makes delta_i = g_i dout_i . y_i.
// Sums over queries run in ascending order; those over query heads of a key head likewise.
void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec);

// The weightings, in the order of the enumerators: names for configurations, tests and reports.
std::span<const VariantInfo> variants();
// Whether rows of weights are divided by their sum (and lse is needed).
bool is_normalized(Weighting weighting);

// Weights of one head for one document, (T, T) row-major with zeros where masked: for probes and figures, not training.
// p as in attention_forward from q (T, HS), k (T, HS) of that head and document; scores (T, T; may be empty) gets the
// masked scores before weighting. Arithmetic in double, by the definition, sharing nothing with the tiled kernel but
// the trait.
void attention_weights(std::span<double> weights, std::span<double> scores, Tensor q, Tensor k, double sink_logit,
                       int64_t head, int64_t NH, const AttentionSpec& spec);

// out = y * sigmoid(z): the gate G1 behind core attention, one per element.              Qiu et al., arXiv:2505.06708
// y, out, z (N, NH, HS), one floating dtype. (One per head is part of core attention: AttentionTensors::gate.)
void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec);

// dy = dout * g, dz = dout * y * g (1 - g); g = sigmoid(z).
// dy may be dout's own memory.
void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec);

}  // namespace plimsoll
