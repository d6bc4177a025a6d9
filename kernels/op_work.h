// What an op computes and what it moves, from its operands' shapes: the numerators of a roofline (train/roofline.h).
//
// Every op of implementations.inc has a function of its name and arguments here, or its dispatcher does not compile.
// Conventions:
//   products  operations of matrix products and of core attention's scores: a multiply-add is two. Only what the mask
//             shows counts, not the whole tiles in which it is computed. attention_backward makes the scores again:
//             five products for the forward's two.
//   others    operations on elements, by the formula in the op's header: each +, -, *, /, comparison, exp, tanh, log
//             and sqrt is one. What is done once per row or per head is left out.
//   bytes     compulsory traffic: every operand that is there is read once, every result written once, and read before
//             where it is added to. What caches save or waste is not in it, nor the reading of lines before they are
//             written.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <span>

#include "kernels/attention/mask.h"
#include "kernels/attention_tasks.h"
#include "kernels/cross_entropy.h"
#include "kernels/differential.h"
#include "kernels/extra_key.h"
#include "kernels/feed_forward.h"
#include "kernels/gate.h"
#include "kernels/memory.h"
#include "kernels/mlp.h"
#include "kernels/muon.h"
#include "kernels/norm.h"
#include "kernels/orthoadam.h"

namespace plimsoll {

struct OpWork {
    double products = 0;
    double others = 0;
    double bytes = 0;
    bool bf16 = false;  // the products' operands are bf16

    OpWork& operator+=(const OpWork& more) {
        products += more.products, others += more.others, bytes += more.bytes, bf16 = bf16 || more.bf16;
        return *this;
    }
};

// What each op of this name works, for its arguments. Ids and cu_seqlens are read where the formula needs them: on the
// CPU only.
namespace op_work {

using Tensors = std::initializer_list<Tensor>;
using Ids = std::span<const int32_t>;

inline double bytes_of(Tensors operands) {
    double bytes = 0;
    for (const Tensor& t : operands) bytes += t ? static_cast<double>(t.bytes()) : 0;
    return bytes;
}
// A result written, or added to as `write` says.
inline double bytes_of(Tensors results, Write write) {
    return (write == Write::kAccumulate ? 2 : 1) * bytes_of(results);
}
inline double bytes_of(Ids ids) {
    return static_cast<double>(ids.size_bytes());
}
inline double count(Tensor t) {
    return t ? static_cast<double>(t.elements()) : 0;
}
// `each` operations per element of x.
inline OpWork elementwise(double each, Tensor x, double bytes) {
    return {.others = each * count(x), .bytes = bytes};
}

// --- products -------------------------------------------------------------------------------------------------------

// (N, O) and (O, I): three products of a linear layer have the same operations.
inline OpWork product(Tensor of_outputs, Tensor weight, double bytes) {
    return {.products = 2 * count(of_outputs) * static_cast<double>(weight.shape[1]),
            .bytes = bytes,
            .bf16 = of_outputs.dtype == DType::kBF16 || weight.dtype == DType::kBF16};
}
inline OpWork matmul_forward(Tensor out, Tensor x, Tensor weight, Tensor bias, const Exec& /*exec*/) {
    OpWork work = product(out, weight, bytes_of({out, x, weight, bias}));
    work.others = bias ? count(out) : 0;
    return work;
}
inline OpWork matmul_backward_input(Tensor dx, Tensor dout, Tensor weight, Write write, const Exec& /*exec*/) {
    return product(dout, weight, bytes_of({dout, weight}) + bytes_of({dx}, write));
}
inline OpWork matmul_backward_weight(Tensor dweight, Tensor dbias, Tensor dout, Tensor x, Write write,
                                     const Exec& /*exec*/) {
    OpWork work = product(dout, dweight, bytes_of({dout, x}) + bytes_of({dweight, dbias}, write));
    work.others = dbias ? count(dout) : 0;
    return work;
}

inline double forward_operations(Activation kind) {
    return kind == Activation::kRelu ? 1 : kind == Activation::kGelu ? 9 : 5;  // per output
}
inline double backward_operations(Activation kind) {
    return kind == Activation::kRelu ? 2 : kind == Activation::kGelu ? 18 : 11;
}
inline OpWork activation_forward(Tensor out, Tensor x, Activation kind, const Exec& /*exec*/) {
    return elementwise(forward_operations(kind), out, bytes_of({out, x}));
}
inline OpWork activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& /*exec*/) {
    return elementwise(backward_operations(kind), dout, bytes_of({dx, dout, x}));
}
inline OpWork matmul_activation_forward(Tensor act, Tensor up, Tensor x, Tensor weight, Tensor bias, Activation kind,
                                        const Exec& exec) {
    OpWork work = op_work::matmul_forward(up, x, weight, bias, exec);
    work.others += forward_operations(kind) * count(act);
    if (act.data != up.data || act.shape != up.shape) work.bytes += bytes_of({act});
    return work;
}
// dact is a result of its own only in memory of its own.
inline OpWork matmul_activation_backward(Tensor dup, Tensor dact, Tensor dout, Tensor weight, Tensor up,
                                         Activation kind, const Exec& /*exec*/) {
    OpWork work = product(dout, weight, bytes_of({dout, weight, up, dup}));
    work.others = backward_operations(kind) * count(dact);
    if (dact.data != dup.data) work.bytes += bytes_of({dact});
    return work;
}

// --- norms and the residual stream ----------------------------------------------------------------------------------

// LayerNorm: mean 1, variance 3, (x - mean) rstd gain 3; RMSNorm: mean of squares 2, x rstd gain 2.
inline double norm_operations(NormSpec spec, Tensor bias) {
    return (spec.kind == NormKind::kLayer ? 7 : 4) + (bias ? 1 : 0);
}
// g 1, xhat 2 (RMSNorm 1), mean(g xhat) 2, dx 5 (4), dgain 2; LayerNorm's mean(g) 1; dbias 1.
inline double norm_backward_operations(NormSpec spec, Tensor dbias) {
    return (spec.kind == NormKind::kLayer ? 13 : 10) + (dbias ? 1 : 0);
}
inline OpWork norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                           const Exec& /*exec*/) {
    return elementwise(norm_operations(spec, bias), x, bytes_of({out, mean, rstd, x, gain, bias}));
}
inline OpWork norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean,
                            Tensor rstd, NormSpec spec, Write dx_write, Write write, const Exec& /*exec*/) {
    return elementwise(
        norm_backward_operations(spec, dbias), x,
        bytes_of({dx}, dx_write) + bytes_of({dout, x, gain, mean, rstd}) + bytes_of({dgain, dbias}, write));
}
inline OpWork residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& /*exec*/) {
    return elementwise(1, x, bytes_of({out, x, branch}));
}
inline OpWork residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch,
                                    Tensor gain, Tensor bias, NormSpec spec, const Exec& /*exec*/) {
    return elementwise(1 + norm_operations(spec, bias), x, bytes_of({sum, out, mean, rstd, x, branch, gain, bias}));
}
inline OpWork residual_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor sum,
                                     Tensor gain, Tensor mean, Tensor rstd, NormSpec spec, Write dx_write, Write write,
                                     const Exec& exec) {
    OpWork work = op_work::norm_backward(dx, dgain, dbias, dout, sum, gain, mean, rstd, spec, dx_write, write, exec);
    work.bytes += bytes_of({dbranch});
    return work;
}

// The ops they are made of; the products' operands between them are not results.
inline OpWork feed_forward_forward(const FeedForwardTensors& t, Activation kind, NormSpec spec, const Exec& exec) {
    OpWork work =
        op_work::residual_norm_forward(t.sum, t.normed, t.mean, t.rstd, t.x, t.branch, t.gain, t.gain_bias, spec, exec);
    work += op_work::matmul_activation_forward(t.act, t.up, t.normed, t.up_weight, t.up_bias, kind, exec);
    work += op_work::matmul_forward(t.product, t.act, t.down_weight, t.down_bias, exec);
    work += op_work::residual_forward(t.out, t.sum, t.product, exec);
    work.bytes -= bytes_of({t.normed, t.act, t.sum}) + 2 * bytes_of({t.product});
    return work;
}
inline OpWork feed_forward_backward(const FeedForwardGradients& d, const FeedForwardTensors& t, Activation kind,
                                    NormSpec spec, Write write, const Exec& exec) {
    OpWork work = op_work::matmul_activation_backward(d.dup, d.dact, d.dout, t.down_weight, t.up, kind, exec);
    work += op_work::matmul_backward_input(d.dnormed, d.dup, t.up_weight, Write::kOverwrite, exec);
    work += op_work::norm_backward(d.dx, d.dgain, d.dbias, d.dnormed, t.sum, t.gain, t.mean, t.rstd, spec,
                                   Write::kAccumulate, write, exec);
    work.bytes += bytes_of({d.dbranch}) - bytes_of({d.dup}) - 2 * bytes_of({d.dnormed});
    return work;
}
inline OpWork convert(Tensor out, Tensor x, const Exec& /*exec*/) {
    return {.bytes = bytes_of({out, x})};
}
inline OpWork fill_zero(Tensor out, const Exec& /*exec*/) {
    return {.bytes = bytes_of({out})};
}
inline OpWork rank_sum(Tensor own, Tensor others, int64_t /*rank*/, const Exec& /*exec*/) {
    return elementwise(1, others, 2 * bytes_of({own}) + bytes_of({others}));
}
// Per element: two squares and a product summed for the cosine 6, the gradient added 4.
inline OpWork decorrelation_backward(Tensor dh, Tensor sum, Tensor squares, Tensor h, Ids positions, double /*scale*/,
                                     const Exec& /*exec*/) {
    return elementwise(10, h, 2 * bytes_of({dh, sum}) + bytes_of({squares, h}) + bytes_of(positions));
}

// --- embedding, positions -------------------------------------------------------------------------------------------

// Of a table as many rows are touched as there are ids, and no more than it has.
inline double touched(Tensor table, Ids ids) {
    if (!table) return 0;
    const double rows = std::min(static_cast<double>(ids.size()), static_cast<double>(table.rows()));
    return rows * static_cast<double>(table.row_elements() * size_of(table.dtype));
}
inline OpWork embedding_forward(Tensor out, Ids tokens, Ids positions, Tensor token_table, Tensor position_table,
                                const Exec& /*exec*/) {
    return elementwise(position_table ? 1 : 0, out,
                       bytes_of({out}) + bytes_of(tokens) + touched(token_table, tokens) +
                           (position_table ? bytes_of(positions) : 0) + touched(position_table, positions));
}
inline OpWork embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, Ids tokens, Ids positions,
                                 const Exec& /*exec*/) {
    return elementwise(dposition_table ? 2 : 1, dout,
                       bytes_of({dout}) + bytes_of(tokens) + 2 * touched(dtoken_table, tokens) +
                           (dposition_table ? bytes_of(positions) : 0) + 2 * touched(dposition_table, positions));
}
// Six operations turn a pair of elements.
inline OpWork rope_forward(Tensor x, Ids positions, double /*theta*/, const Exec& /*exec*/) {
    return elementwise(3, x, 2 * bytes_of({x}) + bytes_of(positions));
}
inline OpWork rope_backward(Tensor dx, Ids positions, double theta, const Exec& exec) {
    return op_work::rope_forward(dx, positions, theta, exec);
}

// --- queries and keys -----------------------------------------------------------------------------------------------

inline OpWork qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double /*eps*/, const Exec& /*exec*/) {
    return elementwise(4, x, bytes_of({out, rstd, x, gain}));
}
// As an RMSNorm's, whose dx is written and not added to.
inline OpWork qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                               const Exec& /*exec*/) {
    return elementwise(9, x, bytes_of({dx, dout, x, gain, rstd}) + bytes_of({dgain}, write));
}
inline OpWork elu1_forward(Tensor out, Tensor x, const Exec& /*exec*/) {
    return elementwise(3, x, bytes_of({out, x}));
}
inline OpWork elu1_backward(Tensor dx, Tensor dout, Tensor out, const Exec& /*exec*/) {
    return elementwise(2, out, bytes_of({dx, dout, out}));
}
// A product with the key 2, the output scaled 1, and with a value 2 more.
inline OpWork extra_key_forward(const AttentionTensors& t, const ExtraKey& key, double /*scale*/,
                                const Exec& /*exec*/) {
    return elementwise(key.v ? 5 : 3, t.out,
                       bytes_of({t.q, t.gate, key.k, key.v, key.score}) + 2 * bytes_of({t.out, t.lse}));
}
// dout . out' 2, dk 2, and with a value dout . v* 2, dv 2.
inline OpWork extra_key_backward(const ExtraKey& d, Tensor dout, const AttentionTensors& t, const ExtraKey& key,
                                 double /*scale*/, Write write, const Exec& /*exec*/) {
    return elementwise(
        key.v ? 8 : 4, t.out,
        bytes_of({dout, t.out, t.q, t.gate, t.lse, key.k, key.v, key.score, d.score}) + bytes_of({d.k, d.v}, write));
}
inline OpWork extra_key_backward_query(Tensor dq, Tensor dscore, Tensor k, double /*scale*/, const Exec& /*exec*/) {
    return elementwise(2, dq, 2 * bytes_of({dq}) + bytes_of({dscore, k}));
}
inline OpWork head_bias_forward(Tensor out, Tensor x, Tensor bias, const Exec& /*exec*/) {
    return elementwise(1, x, bytes_of({out, x, bias}));
}
inline OpWork head_bias_backward(Tensor dbias, Tensor dout, Write write, const Exec& /*exec*/) {
    return elementwise(1, dout, bytes_of({dout}) + bytes_of({dbias}, write));
}
// A product of a value and a head's vector is 2 per element, for every query head of the key head.
inline OpWork key_bias_forward(Tensor bias, Tensor v, Tensor w, const Exec& /*exec*/) {
    return {.others = 2 * count(bias) * static_cast<double>(w.shape[1]), .bytes = bytes_of({bias, v, w})};
}
inline OpWork key_bias_backward(Tensor dv, Tensor dw, Tensor dbias, Tensor v, Tensor w, Write write,
                                const Exec& /*exec*/) {
    return {.others = 4 * count(dbias) * static_cast<double>(w.shape[1]),
            .bytes = 2 * bytes_of({dv}) + bytes_of({dbias, v, w}) + bytes_of({dw}, write)};
}
// tau is made once per head: tanh, exp, logarithm and four more.
inline OpWork temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, Ids positions, const Exec& /*exec*/) {
    return elementwise(1, x, bytes_of({out, x, z, alpha}) + (alpha ? bytes_of(positions) : 0));
}
inline OpWork temperature_backward(Tensor dx, Tensor dz, Tensor dalpha, Tensor dtau, Tensor dout, Tensor x, Tensor z,
                                   Tensor alpha, Ids positions, Write write, const Exec& /*exec*/) {
    return elementwise(
        3, x,
        bytes_of({dx, dz, dtau, dout, x, z, alpha}) + bytes_of({dalpha}, write) + (alpha ? bytes_of(positions) : 0));
}

// --- core attention and what is behind it ---------------------------------------------------------------------------

// Pairs of a query and a key that it sees, of one head: queries [begin, end) of a document of n keys.
inline double visible_pairs(const Mask& mask, int64_t begin, int64_t end, int64_t n) {
    double pairs = 0;
    for (int64_t i = begin; i < end; ++i) pairs += static_cast<double>(mask.visible_keys(i, n));
    return pairs;
}
// Of all documents; equal neighbours are counted once.
inline double visible_pairs(const AttentionSpec& spec, Ids cu_seqlens) {
    const Mask mask(spec);
    double pairs = 0, last = 0;
    int64_t length = -1;
    for (size_t d = 0; d + 1 < cu_seqlens.size(); ++d) {
        const int64_t n = cu_seqlens[d + 1] - cu_seqlens[d];
        if (n != length) last = visible_pairs(mask, 0, n, n), length = n;
        pairs += last;
    }
    return pairs;
}
inline double visible_pairs(const AttentionSpec& spec, const AttentionTasks& tasks) {
    const Mask mask(spec);
    double pairs = 0;
    for (const AttentionTask& task : tasks.tasks)
        pairs += visible_pairs(mask, task.position, task.position + task.count,
                               tasks.keys[static_cast<size_t>(task.keys)].end);
    return pairs;
}
// So many products with queries or keys and with values or outputs, and so many operations on each score, as softmax
// has them.
inline OpWork of_scores(double of_keys, double of_values, double others, const AttentionTensors& t, double pairs,
                        double bytes) {
    const double scores = static_cast<double>(t.q.shape[1]) * pairs;
    return {.products = 2 * scores *
                        (of_keys * static_cast<double>(t.q.shape[2]) + of_values * static_cast<double>(t.v.shape[2])),
            .others = others * scores,
            .bytes = bytes,
            .bf16 = t.q.dtype == DType::kBF16};
}
inline double forward_bytes(const AttentionTensors& t) {
    return bytes_of({t.out, t.lse, t.q, t.k, t.v, t.sink_logit, t.gate, t.score_bias, t.key_bias});
}
// A score: scale, maximum, difference, exp, sum. A gate per head: one per output.
inline OpWork attention_forward(const AttentionTensors& t, Ids cu_seqlens, const AttentionSpec& spec,
                                const Exec& /*exec*/) {
    OpWork work = of_scores(1, 1, 5, t, visible_pairs(spec, cu_seqlens), forward_bytes(t) + bytes_of(cu_seqlens));
    work.others += t.gate ? count(t.out) : 0;
    return work;
}
// A score: scale, difference and exp again, ds = p (dp - delta) 2. A row: delta, 2 per output.
inline OpWork attention_backward(const AttentionTensors& d, const AttentionTensors& t, Ids cu_seqlens,
                                 const AttentionSpec& spec, Write write, const Exec& /*exec*/) {
    OpWork work = of_scores(3, 2, 5, t, visible_pairs(spec, cu_seqlens),
                            forward_bytes(t) + bytes_of({d.out, d.q, d.k, d.v, d.gate, d.key_bias}) +
                                bytes_of({d.sink_logit, d.score_bias}, write) + bytes_of(cu_seqlens));
    work.others += 2 * count(t.out);
    return work;
}
inline OpWork attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                                      const Exec& /*exec*/) {
    return of_scores(1, 1, 5, t, visible_pairs(spec, tasks), forward_bytes(t));
}
inline OpWork attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                                       const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& /*exec*/) {
    return of_scores(3, 2, 5, t, visible_pairs(spec, tasks),
                     bytes_of({t.q, t.k, t.v, t.lse, t.score_bias, delta, d.out, d.q, d.k, d.v, d.score_bias}));
}
inline OpWork attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                                      Ids cu_seqlens, const AttentionSpec& /*spec*/, Write write,
                                      const Exec& /*exec*/) {
    return elementwise(t.gate ? 3 : 2, t.out,
                       bytes_of({t.out, t.lse, t.sink_logit, t.gate, d.gate, delta}) + bytes_of(cu_seqlens) +
                           (t.gate ? 2 : 1) * bytes_of({d.out}) + bytes_of({d.sink_logit}, write));
}
inline OpWork score_bias_backward(Tensor dscore_bias, Tensor rows, Write write, const Exec& /*exec*/) {
    return elementwise(1, rows, bytes_of({rows}) + bytes_of({dscore_bias}, write));
}
// The sigmoid is 3 per gate.
inline OpWork gate_forward(Tensor out, Tensor y, Tensor z, GateSpec /*spec*/, const Exec& /*exec*/) {
    return {.others = count(y) + 3 * count(z), .bytes = bytes_of({out, y, z})};
}
// dy 1, dz 2 per element; the sigmoid and its derivative 5 per gate. A gate for all tokens is added to.
inline OpWork gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, GateSpec /*spec*/, Write write,
                            const Exec& /*exec*/) {
    return {.others = 3 * count(y) + 5 * count(z),
            .bytes = bytes_of({dy, dout, y, z}) + bytes_of({dz}, z.shape.rank() == 2 ? write : Write::kOverwrite)};
}
inline OpWork head_softmax_forward(Tensor out, Tensor z, const Exec& /*exec*/) {
    return elementwise(5, z, bytes_of({out, z}));
}
inline OpWork head_softmax_backward(Tensor dz, Tensor dout, Tensor out, const Exec& /*exec*/) {
    return elementwise(4, out, bytes_of({dz, dout, out}));
}
// A difference 2, its norm 4 more.
inline OpWork differential_forward(const DifferentialTensors& t, const DifferentialSpec& /*spec*/,
                                   const Exec& /*exec*/) {
    return elementwise(t.gain ? 6 : 2, t.out, bytes_of({t.y, t.lambda, t.gain, t.rstd, t.out}));
}
inline OpWork differential_backward(const DifferentialTensors& d, const DifferentialTensors& t,
                                    const DifferentialSpec& /*spec*/, Write write, const Exec& /*exec*/) {
    return elementwise(
        t.gain ? 14 : 3, t.out,
        bytes_of({t.y, t.lambda, t.gain, t.rstd, d.out, d.y, d.lambda, d.rstd}) + bytes_of({d.gain}, write));
}
inline OpWork differential_lambda_forward(Tensor lambda, Tensor vectors, double /*start*/, const Exec& /*exec*/) {
    return elementwise(1, vectors, bytes_of({lambda, vectors}));
}
inline OpWork differential_lambda_backward(Tensor dvectors, Tensor dlambda, Tensor vectors, Write write,
                                           const Exec& /*exec*/) {
    return elementwise(1, vectors, bytes_of({dlambda, vectors}) + bytes_of({dvectors}, write));
}
inline OpWork repeat_heads_forward(Tensor out, Tensor x, int64_t /*block*/, const Exec& /*exec*/) {
    return {.bytes = bytes_of({out, x})};
}
inline OpWork repeat_heads_backward(Tensor dx, Tensor dout, int64_t /*block*/, const Exec& /*exec*/) {
    return elementwise(1, dx, bytes_of({dx, dout}));
}

// --- cross entropy --------------------------------------------------------------------------------------------------

inline double bytes_of(const CrossEntropyState& state) {
    return bytes_of({state.max, state.sum, state.target_logit});
}
inline OpWork cross_entropy_begin(const CrossEntropyState& state, const Exec& /*exec*/) {
    return {.bytes = bytes_of(state)};
}
// Maximum, difference, exp, sum.
inline OpWork cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t /*v0*/, Ids targets,
                                       const Exec& /*exec*/) {
    return elementwise(4, logits, bytes_of({logits}) + 2 * bytes_of(state) + bytes_of(targets));
}
inline OpWork cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, Ids targets,
                                   const Exec& /*exec*/) {
    return elementwise(3, nll, bytes_of({nll, lse}) + bytes_of(state) + bytes_of(targets));
}
inline OpWork cross_entropy_sums(Tensor sums, Tensor nll, Tensor lse, Ids targets, Write write, const Exec& /*exec*/) {
    return elementwise(4, nll, bytes_of({nll, lse}) + bytes_of(targets) + bytes_of({sums}, write));
}
// Difference, exp, factor.
inline OpWork cross_entropy_gradient(Tensor logits, int64_t /*v0*/, Tensor lse, Ids targets, double /*scale*/,
                                     double /*z_loss*/, const Exec& /*exec*/) {
    return elementwise(3, logits, 2 * bytes_of({logits}) + bytes_of({lse}) + bytes_of(targets));
}
inline OpWork cross_entropy_whole(Tensor nll, Tensor lse, Tensor logits, const CrossEntropyState& /*state*/,
                                  Ids targets, double /*scale*/, double /*z_loss*/, const Exec& /*exec*/) {
    return elementwise(7, logits, 2 * bytes_of({logits}) + bytes_of({nll, lse}) + bytes_of(targets));
}

// --- updates --------------------------------------------------------------------------------------------------------

// Elements of the spans, each with `flops`, `twice` tensors that are read and written and `once` that are one of both.
inline OpWork update(const UpdateSpans& spans, double flops, std::initializer_list<Tensor> twice,
                     std::initializer_list<Tensor> once) {
    double elements = 0, each = 0;
    for (int64_t i = 0; i < spans.count; ++i) elements += static_cast<double>(spans.at[i].count);
    for (const Tensor& t : twice) each += 2 * static_cast<double>(size_of(t.dtype));
    for (const Tensor& t : once)
        if (t) each += static_cast<double>(size_of(t.dtype));
    return {.others = flops * elements, .bytes = each * elements};
}
// g 1, m 3, v 4, both corrected 2, sqrt, + eps, /, decay 2, lr, -: 17.
inline OpWork adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const UpdateSpans& spans,
                         const Exec& /*exec*/) {
    return update(spans, 17, {param, m, v}, {grad, working});
}
inline OpWork sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const UpdateSpans& spans,
                       const Exec& /*exec*/) {
    return update(spans, 7, {param, buffer}, {grad, working});
}
inline OpWork sum_of_squares(Tensor x, const Exec& /*exec*/) {
    return elementwise(2, x, bytes_of({x}));
}
// g 1, the buffer 3, the direction 3, its norm 2 and the division by it.
inline OpWork nesterov_direction(Tensor direction, Tensor buffer, Tensor grad, const UpdateFactors* /*factors*/,
                                 const Exec& /*exec*/) {
    return elementwise(10, direction, bytes_of({direction, grad}) + 2 * bytes_of({buffer}));
}
inline OpWork quintic_polynomial(Tensor gram, Tensor square, const QuinticCoefficients& /*coefficients*/,
                                 const Exec& /*exec*/) {
    return elementwise(3, gram, 2 * bytes_of({gram}) + bytes_of({square}));
}
inline OpWork apply_direction(Tensor param, Tensor direction, Tensor working, const UpdateFactors* /*factors*/,
                              const Exec& /*exec*/) {
    return elementwise(3, param, 2 * bytes_of({param}) + bytes_of({direction, working}));
}
inline OpWork adam_direction(Tensor direction, Tensor m, Tensor v, const UpdateFactors* /*factors*/,
                             const Exec& /*exec*/) {
    return elementwise(13, direction, 2 * bytes_of({direction, m, v}));
}
// log2(p) additions and a factor per element and pass.
inline OpWork rotate(Tensor x, Axis axis, Turn /*turn*/, const Rotation& /*rotation*/, const Exec& /*exec*/) {
    const int64_t n = x.shape[axis == Axis::kRows ? 0 : 1];
    double each = 1;
    for (int64_t p = power_of_two_in(n); p > 1; p /= 2) ++each;
    return elementwise(each * Rotation::passes(n), x, 2 * bytes_of({x}));
}
inline OpWork copy_rects(std::span<const CopyRect> rects, const Exec& /*exec*/) {
    OpWork work;
    for (const CopyRect& rect : rects) work.bytes += 2 * static_cast<double>(rect.width * rect.height);
    return work;
}

}  // namespace op_work
}  // namespace plimsoll
