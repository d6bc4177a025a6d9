// Core attention: scores to weights to a weighted sum of values, and one gate per head. Other gates: gate.h.
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

// What the weights p of a row are made of, beside each its own score: a statistic of the row, or nothing.
enum class Normalization : uint8_t {
    kNone,  // each score is weighed alone
    kExp,   // p = exp(s - lse), which sums to one; the statistic is lse
    kSum,   // p = f(s) / divisor(sum_j f(s_j)); the statistic is that sum, which may have either sign
};

// What a bias b (ScoreBias) does to a weighting.
enum class BiasRole : uint8_t {
    kNone,    // nothing: the weighting takes none
    kAdded,   // it is added to the score: p = f(s + b)
    kFactor,  // it is the logarithm of a factor: p = exp(b) f(s). Not with kSum, which would divide it out again
};

struct VariantInfo {
    std::string_view name;   // in configurations and reports
    std::string_view paper;  // arXiv number
    Normalization normalization = Normalization::kNone;
    BiasRole bias = BiasRole::kNone;
};

// A virtual column beside the keys, with no value: what a head can attend to in order to do nothing.
enum class ExtraColumn : uint8_t {
    kNone,
    kConstant,      // its logit is AttentionSpec::extra_logit; 0 gives softmax1 (Miller 2023; "zero sink",
                    // arXiv:2309.17453)
    kLearnedLogit,  // its logit is sink_logit[h], neither scaled nor rotated (gpt-oss)
};

// The bias b of weightings that take one (BiasRole); others ignore it.
enum class ScoreBias : uint8_t {
    kConstant,  // AttentionSpec::score_bias, such as -log n for sigmoid (arXiv:2409.04431)
    kPerRow,    // -log of the number of keys the query sees
    kLearned,   // score_bias[h]; only for weightings that take a bias
};

// Which keys before a query i are visible, its own included; w = AttentionSpec::window.
enum class MaskPattern : uint8_t {
    kCausal,   // (i - w, i]; all with w = 0
    kDilated,  // the last w at distances i - j that are multiples of `dilation`; all of these with w = 0
    kStrided,  // (i - w, i], and before it every key at a distance that is a multiple of w: the two heads of the
               // strided pattern of Child et al., arXiv:1904.10509, merged
    kBlocked,  // of the query's own block of w tokens; blocks are counted from the document's first token
};

struct AttentionSpec {
    Weighting weighting = Weighting::kSoftmax;
    double scale = 1;                               // of q.k
    ExtraColumn extra_column = ExtraColumn::kNone;  // for weightings of kExp
    double extra_logit = 0;
    ScoreBias bias_kind = ScoreBias::kConstant;  // for weightings that take a bias
    double score_bias = 0;
    MaskPattern pattern = MaskPattern::kCausal;
    int64_t window = 0;    // w of the pattern, in tokens; above 0 for kStrided and kBlocked
    int64_t dilation = 1;  // of kDilated
    int64_t pinned = 0;    // keys j < pinned of the document are visible to all queries behind them
    int64_t prefix = 0;    // the document's tokens below it see one another, whatever the pattern (prefix-LM)
    bool alibi = false;    // scores -= 2^(-8 (h + 1) / NH) |i - j|                     Press et al., arXiv:2108.12409
};

// out_i = sum_j p_ij v_j,  p = weighting(s + bias), per head and document.
// FlashAttention-2, arXiv:2307.08691, alg. 1: no (T, T) matrix in memory. A score becomes
//   s_ij = scale q_i . k_j + key_bias_j - slope |i - j|  (ALiBi), and is then hidden where the spec's mask says so.
// For softmax
//   p_ij = exp(s_ij - lse_i),  lse_i = log(exp(extra logit) + sum_j exp(s_ij)).
// What core attention reads and writes, or the gradients of that.
struct AttentionTensors {
    Tensor out;         // (N, NH, VS)
    Tensor lse;         // (NH, N) the rows' statistic, in the dtype sums are kept in, for weightings that have one:
                        // kExp: the natural logarithm above; kSum: the sum of a row's f(s)
    Tensor q, k, v;     // (N, NH, HS), (N, NKV, HS), (N, NKV, VS): one floating dtype, each with a row stride or not.
                        // VS is HS but for values of another width; on CUDA that is 2 HS (attention_wide.h)
    Tensor sink_logit;  // (NH) in the dtype sums are kept in; for kLearnedLogit only
    Tensor gate;        // (N, NH), before the sigmoid; empty = none
    Tensor score_bias = {};  // (NH) in the dtype sums are kept in; for ScoreBias::kLearned only
    Tensor key_bias = {};    // (rows of k, NH) in the dtype sums are kept in, added to scores
};

// out_i = sigmoid(gate_i) sum_j p_ij v_j, the factor only with a gate (G1, one per head: Qiu et al., arXiv:2505.06708).
// Key head of query head h is h / (NH / NKV). A row that sees no key has out = 0, lse = -inf (kExp) and sum 0
// (kSum); one whose divisor is not above 0 has weights, output and gradients 0.
// cu_seqlens: where documents start among the N tokens, ascending, then N. Tiles are counted from each document's first
// token, so a document gives the same bits wherever it lies. Bits do not depend on the number of threads.
// Throws Error if NH is not a multiple of NKV, HS is not in 1..256 or VS in 1..512, or shapes and dtypes disagree.
void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec);

// From d.out and what forward read and wrote: d.q, d.k, d.v, d.gate and d.key_bias, overwritten; d.sink_logit and
// d.score_bias as `write` says.
//   g_i = sigmoid(gate_i), 1 without;  delta_i = sum_c dout_ic out_ic;  dp_ij = g_i dout_i . v_j;
//   ds_ij = kNone: dp_ij dp/ds;  kExp: p_ij (dp_ij - delta_i);
//           kSum: f'(s_ij) (dp_ij - delta_i ddivisor/dsum) / divisor;
//   dv_j = sum_i p_ij g_i dout_i;  dq_i = scale sum_j ds_ij k_j;  dk_j = scale sum_i ds_ij q_i;
//   dsink_logit_h = -sum_i exp(sink_logit_h - lse_i) delta_i;
//   dscore_bias_h = sum_ij ds_ij where it is added to scores, sum_ij p_ij dp_ij where it is a factor;
//   dkey_bias_j = sum_i ds_ij, of each query head;
//   dgate_i = delta_i (1 - g_i), because out_i = g_i y_i makes delta_i = g_i dout_i . y_i.
// Sums over queries run in ascending order; those over query heads of a key head likewise.
void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec);

// The weightings, in the order of the enumerators: names for configurations, tests and reports.
std::span<const VariantInfo> variants();
const VariantInfo& info_of(Weighting weighting);
// Whether a row's weights depend on all its scores: its statistic (AttentionTensors::lse) and delta are needed then.
bool is_normalized(Weighting weighting);
// Whether ScoreBias says something.
bool takes_bias(Weighting weighting);
// Whether an extra column can stand beside the keys.
bool takes_extra_column(Weighting weighting);

// Weights of one head for one document, (T, T) row-major with zeros where masked: for probes and figures, not training.
// p as in attention_forward from q (T, HS), k (T, HS) of that head and document; scores (T, T; may be empty) gets the
// masked scores before weighting. learned: the head's sink_logit or score_bias, whichever the spec wants. key_bias: the
// head's (T), or empty. Arithmetic in double, by the definition, sharing nothing with the tiled kernel but the trait.
void attention_weights(std::span<double> weights, std::span<double> scores, Tensor q, Tensor k, double learned,
                       int64_t head, int64_t NH, const AttentionSpec& spec, std::span<const double> key_bias = {});

}  // namespace plimsoll
