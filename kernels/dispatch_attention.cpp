// Shapes of attention and its gate are checked here, at the door; kernels trust them.
#include <algorithm>

#include "kernels/attention/mask.h"
#include "kernels/attention_cached.h"
#include "kernels/attention_tasks.h"
#include "kernels/dispatch.h"
#include "kernels/gate.h"

namespace plimsoll {
namespace {

constexpr int64_t kMaxHeadSize = 256, kMaxValueSize = 512;

// What `op` reads, whatever queries there are: k and v may have other rows than q.
void check_attention(const char* op, const AttentionTensors& t, const AttentionSpec& spec) {
    const auto& [out, lse, q, k, v, sink_logit, gate, score_bias, key_bias] = t;
    check(q.shape.rank() == 3 && k.shape.rank() == 3 && v.shape.rank() == 3,
          "{}: q {} and k {} must be (N, heads, HS), v {} (N, heads, VS)", op, q.shape, k.shape, v.shape);
    const int64_t N = q.shape[0], NH = q.shape[1], HS = q.shape[2], VS = v.shape[2];
    check(k.shape[0] == v.shape[0] && k.shape[1] == v.shape[1] && k.shape[2] == HS, "{}: q {}, k {}, v {}", op, q.shape,
          k.shape, v.shape);
    check(k.shape[1] > 0 && NH % k.shape[1] == 0, "{}: {} query heads are no multiple of {} key heads", op, NH,
          k.shape[1]);
    check(HS >= 1 && HS <= kMaxHeadSize, "{}: head size {}, must lie in 1 .. {}", op, HS, kMaxHeadSize);
    check(VS >= 1 && VS <= kMaxValueSize, "{}: values of {} channels, must lie in 1 .. {}", op, VS, kMaxValueSize);
    check(k.dtype == q.dtype && v.dtype == q.dtype, "{}: q, k and v must have one dtype", op);
    const bool normalized = is_normalized(spec.weighting);
    check(!normalized || (lse.shape == Shape{NH, N} && lse.contiguous() && lse.dtype == accumulator_of(q.dtype)),
          "{}: lse {} in {} must be ({}, {}) in {}", op, lse.shape, name_of(lse.dtype), NH, N,
          name_of(accumulator_of(q.dtype)));
    check(spec.window >= 0 && spec.pinned >= 0 && spec.prefix >= 0 && spec.dilation >= 1,
          "{}: window {}, pinned {} and prefix {} must not be negative, dilation {} at least 1", op, spec.window,
          spec.pinned, spec.prefix, spec.dilation);
    check(spec.window > 0 || spec.pattern == MaskPattern::kCausal || spec.pattern == MaskPattern::kDilated,
          "{}: a strided or blocked pattern needs a window", op);
    check(!key_bias || (key_bias.shape == Shape{k.shape[0], NH} && key_bias.dtype == accumulator_of(q.dtype) &&
                        key_bias.contiguous()),
          "{}: key_bias {} in {} must be ({}, {}) in {}", op, key_bias.shape, name_of(key_bias.dtype), k.shape[0], NH,
          name_of(accumulator_of(q.dtype)));
}

// `out` or its gradient.
void check_output(const char* op, Tensor out, const AttentionTensors& t) {
    check(out.shape == Shape{t.q.shape[0], t.q.shape[1], t.v.shape[2]} && out.dtype == t.q.dtype,
          "{}: q {}, v {} in {}, out {} in {}", op, t.q.shape, t.v.shape, name_of(t.q.dtype), out.shape,
          name_of(out.dtype));
}

void check_extra_column(const char* op, Tensor sink_logit, int64_t NH, DType sums, const AttentionSpec& spec) {
    check(takes_extra_column(spec.weighting) || spec.extra_column == ExtraColumn::kNone,
          "{}: an extra column needs a weighting that normalises over exp(s)", op);
    check(static_cast<bool>(sink_logit) == (spec.extra_column == ExtraColumn::kLearnedLogit),
          "{}: sink_logit goes with a learned extra column", op);
    check(!sink_logit || (sink_logit.shape == Shape{NH} && sink_logit.dtype == sums), "{}: sink_logit {} in {}", op,
          sink_logit.shape, name_of(sink_logit.dtype));
}

void check_score_bias(const char* op, Tensor score_bias, int64_t NH, DType sums, const AttentionSpec& spec) {
    const bool learned = spec.bias_kind == ScoreBias::kLearned;
    check(!learned || takes_bias(spec.weighting), "{}: a learned bias needs a weighting that takes one, '{}' does not",
          op, info_of(spec.weighting).name);
    check(static_cast<bool>(score_bias) == learned &&
              (!learned || (score_bias.shape == Shape{NH} && score_bias.dtype == sums)),
          "{}: score_bias {} goes with a learned bias, ({}) in {}", op, score_bias.shape, NH, name_of(sums));
}

// `out` (N, NH, VS) with its gate, if there is one.
void check_head_gate(const char* op, Tensor out, Tensor gate) {
    const int64_t N = out.shape[0], NH = out.shape[1];
    check(!gate || (gate.shape == Shape{N, NH} && gate.dtype == out.dtype && gate.contiguous()),
          "{}: gate {} in {} must be ({}, {}) in {}", op, gate.shape, name_of(gate.dtype), N, NH, name_of(out.dtype));
}

void check_documents(const char* op, std::span<const int32_t> cu_seqlens, int64_t N, const Exec& exec) {
    check(cu_seqlens.size() >= 2, "{}: cu_seqlens must run from 0 to {}", op, N);
    if (!ids_are_readable(exec)) return;
    check(cu_seqlens.front() == 0 && cu_seqlens.back() == N, "{}: cu_seqlens must run from 0 to {}", op, N);
    for (size_t d = 1; d < cu_seqlens.size(); ++d)
        check(cu_seqlens[d - 1] < cu_seqlens[d], "{}: cu_seqlens must ascend, entry {} is {} after {}", op, d,
              cu_seqlens[d], cu_seqlens[d - 1]);
}

bool alike(Tensor a, Tensor b) {
    return a.shape == b.shape && a.dtype == b.dtype;
}

// Where queries and keys are the same tokens.
void check_local(const char* op, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                 const AttentionSpec& spec, const Exec& exec) {
    check_attention(op, t, spec);
    check_output(op, t.out, t);
    check(t.k.shape[0] == t.q.shape[0], "{}: q {}, k {}", op, t.q.shape, t.k.shape);
    check_extra_column(op, t.sink_logit, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_score_bias(op, t.score_bias, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_head_gate(op, t.out, t.gate);
    check_documents(op, cu_seqlens, t.q.shape[0], exec);
}

void check_ranges(const char* op, std::span<const KeyRange> keys, int64_t rows) {
    int64_t free = 0;
    for (size_t i = 0; i < keys.size(); ++i) {
        const KeyRange& r = keys[i];
        check(r.prefix >= 0 && r.prefix <= r.begin && r.begin <= r.end && r.prefix % kKeyBlock == 0 &&
                  r.begin % kKeyBlock == 0,
              "{}: key range {} holds positions 0 .. {} and {} .. {}; must ascend, in multiples of {}", op, i, r.prefix,
              r.begin, r.end, kKeyBlock);
        check(r.row >= free && r.row + r.rows() <= rows, "{}: key range {} has rows {} .. {}, must lie in {} .. {}", op,
              i, r.row, r.row + r.rows(), free, rows);
        free = r.row + r.rows();
    }
}

// Whether a range has every key in [begin, end).
bool holds(const KeyRange& r, int64_t begin, int64_t end) {
    if (r.prefix == r.begin) return end <= r.end;
    return begin >= end || end <= r.prefix || (begin >= r.begin && end <= r.end);
}

void check_tasks(const char* op, const AttentionTasks& all, int64_t queries, int64_t rows, const AttentionSpec& spec) {
    check_ranges(op, all.keys, rows);
    const Mask mask(spec);
    AttentionTask last{.keys = -1};
    for (size_t i = 0; i < all.tasks.size(); ++i) {
        const AttentionTask& t = all.tasks[i];
        check(t.keys >= 0 && t.keys < static_cast<int64_t>(all.keys.size()), "{}: task {} is on key range {} of {}", op,
              i, t.keys, all.keys.size());
        check(t.count > 0 && t.position >= 0 && t.row >= last.row + last.count && t.row + t.count <= queries,
              "{}: task {} has rows {} .. {} at position {}, must lie in {} .. {}", op, i, t.row, t.row + t.count,
              t.position, last.row + last.count, queries);
        check(t.keys > last.keys || (t.keys == last.keys && t.position >= last.position + last.count),
              "{}: task {} (key range {}, position {}) must come before task {}", op, i, t.keys, t.position, i - 1);
        const KeyRange& r = all.keys[static_cast<size_t>(t.keys)];
        // The first query sees furthest back. A range that ends within the mask's prefix ends where the document does.
        const KeysOfQuery<int64_t> seen = mask.keys_of(t.position, r.end);
        const int64_t end = std::max(t.position + t.count, seen.end);
        const int64_t begin = seen.sparse, pinned = begin > 0 ? std::min(spec.pinned, end) : 0;
        check(holds(r, begin, end) && holds(r, 0, pinned),
              "{}: task {} sees keys 0 .. {} and {} .. {}, range {} holds 0 .. {} and {} .. {}", op, i, pinned, begin,
              end, t.keys, r.prefix, r.begin, r.end);
        last = t;
    }
}

void check_cached(const char* op, std::span<const CachedQuery> queries, int64_t N, int64_t rows) {
    check(static_cast<int64_t>(queries.size()) == N, "{}: {} queries for q of {} rows", op, queries.size(), N);
    for (size_t i = 0; i < queries.size(); ++i) {
        int64_t free = 0;  // the first position that the next run may have
        for (const KeyRun& run : queries[i].runs) {
            if (run.count == 0) continue;
            check(
                run.count > 0 && run.row >= 0 && run.row + run.count <= rows && run.position >= free &&
                    run.position + run.count - 1 <= queries[i].position,
                "{}: query {} at position {} has {} keys in rows from {} on, at positions from {}; must ascend from {} "
                "to the query's, within {} rows",
                op, i, queries[i].position, run.count, run.row, run.position, free, rows);
            free = run.position + run.count;
        }
    }
}

}  // namespace

void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec) {
    check_device(exec, "attention_forward");
    check_local("attention_forward", t, cu_seqlens, spec, exec);
    PLIMSOLL_RUN(exec, attention_forward(t, cu_seqlens, spec, exec));
}

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    check_device(exec, "attention_backward");
    check_local("attention_backward", t, cu_seqlens, spec, exec);
    check(alike(d.q, t.q) && alike(d.k, t.k) && alike(d.v, t.v) && alike(d.out, t.out),
          "attention_backward: gradients must look like what they are gradients of");
    check(alike(d.sink_logit, t.sink_logit), "attention_backward: dsink_logit {}", d.sink_logit.shape);
    check(alike(d.score_bias, t.score_bias), "attention_backward: dscore_bias {}", d.score_bias.shape);
    check(alike(d.key_bias, t.key_bias) && (!d.key_bias || d.key_bias.contiguous()),
          "attention_backward: dkey_bias {} for key_bias {}", d.key_bias.shape, t.key_bias.shape);
    check(alike(d.gate, t.gate), "attention_backward: dgate {} for gate {}", d.gate.shape, t.gate.shape);
    PLIMSOLL_RUN(exec, attention_backward(d, t, cu_seqlens, spec, write, exec));
}

void attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                             const Exec& exec) {
    constexpr const char* op = "attention_tasks_forward";
    check_device(exec, op);
    check_attention(op, t, spec);
    check_output(op, t.out, t);
    check(!t.gate, "{}: tasks have no gate, got one of {}", op, t.gate.shape);
    check_extra_column(op, t.sink_logit, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_score_bias(op, t.score_bias, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_tasks(op, tasks, t.q.shape[0], t.k.shape[0], spec);
    PLIMSOLL_RUN(exec, attention_tasks_forward(t, tasks, spec, exec));
}

void attention_cached_forward(const AttentionTensors& t, std::span<const CachedQuery> queries,
                              std::span<const double> frequencies, const AttentionSpec& spec, const Exec& exec) {
    constexpr const char* op = "attention_cached_forward";
    check_on_cpu(exec, op);
    check_attention(op, t, spec);
    check_output(op, t.out, t);
    check_extra_column(op, t.sink_logit, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_score_bias(op, t.score_bias, t.q.shape[1], accumulator_of(t.q.dtype), spec);
    check_head_gate(op, t.out, t.gate);
    check_cached(op, queries, t.q.shape[0], t.k.shape[0]);
    check(frequencies.empty() || 2 * static_cast<int64_t>(frequencies.size()) == t.q.shape[2],
          "{}: {} frequencies for heads of {}", op, frequencies.size(), t.q.shape[2]);
    const TraceRange range(exec, __func__);
    cpu::attention_cached_forward(t, queries, frequencies, spec, exec);
}

void attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                              const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    constexpr const char* op = "attention_tasks_backward";
    check_device(exec, op);
    check_attention(op, t, spec);
    check(!is_normalized(spec.weighting) || (alike(delta, t.lse) && delta.contiguous()),
          "{}: delta {} in {} must look like lse {}", op, delta.shape, name_of(delta.dtype), t.lse.shape);
    const DType sums = accumulator_of(t.q.dtype);
    check_output(op, d.out, t);
    check(alike(d.q, t.q) && d.k.shape == t.k.shape && d.v.shape == t.v.shape && d.k.dtype == d.v.dtype &&
              (d.k.dtype == t.q.dtype || d.k.dtype == sums),
          "{}: dq {}, dk {} and dv {} in {} for q {}, k {} in {}", op, d.q.shape, d.k.shape, d.v.shape,
          name_of(d.k.dtype), t.q.shape, t.k.shape, name_of(t.q.dtype));
    check_score_bias(op, t.score_bias, t.q.shape[1], sums, spec);
    check(!t.key_bias, "{}: keys of tasks have no biases, got key_bias {}", op, t.key_bias.shape);
    check(!t.score_bias || (d.score_bias.shape == Shape{t.q.shape[1], t.q.shape[0]} && d.score_bias.dtype == sums &&
                            d.score_bias.contiguous()),
          "{}: dscore_bias {} in {} must be ({}, {}) in {}", op, d.score_bias.shape, name_of(d.score_bias.dtype),
          t.q.shape[1], t.q.shape[0], name_of(sums));
    check_tasks(op, tasks, t.q.shape[0], t.k.shape[0], spec);
    PLIMSOLL_RUN(exec, attention_tasks_backward(d, t, delta, tasks, spec, exec));
}

void attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                             std::span<const int32_t> cu_seqlens, const AttentionSpec& spec, Write write,
                             const Exec& exec) {
    constexpr const char* op = "attention_backward_rows";
    check_device(exec, op);
    check(t.out.shape.rank() == 3 && alike(d.out, t.out), "{}: out {}, dout {}", op, t.out.shape, d.out.shape);
    const int64_t N = t.out.shape[0], NH = t.out.shape[1];
    const DType sums = accumulator_of(t.out.dtype);
    const auto per_row = [&](Tensor x) { return x.shape == Shape{NH, N} && x.dtype == sums && x.contiguous(); };
    check(per_row(delta) && (!t.sink_logit || per_row(t.lse)), "{}: delta {} and lse {} must be ({}, {}) in {}", op,
          delta.shape, t.lse.shape, NH, N, name_of(sums));
    check_extra_column(op, t.sink_logit, NH, sums, spec);
    check_head_gate(op, t.out, t.gate);
    check(alike(d.sink_logit, t.sink_logit) && alike(d.gate, t.gate), "{}: dsink_logit {}, dgate {} for gate {}", op,
          d.sink_logit.shape, d.gate.shape, t.gate.shape);
    check_documents(op, cu_seqlens, N, exec);
    PLIMSOLL_RUN(exec, attention_backward_rows(d, delta, t, cu_seqlens, spec, write, exec));
}

void score_bias_backward(Tensor dscore_bias, Tensor rows, Write write, const Exec& exec) {
    check_device(exec, "score_bias_backward");
    check(rows.shape.rank() == 2 && rows.contiguous() && dscore_bias.shape == Shape{rows.shape[0]} &&
              dscore_bias.dtype == rows.dtype && (rows.dtype == DType::kF32 || rows.dtype == DType::kF64),
          "score_bias_backward: rows {} in {}, dscore_bias {} in {}", rows.shape, name_of(rows.dtype),
          dscore_bias.shape, name_of(dscore_bias.dtype));
    PLIMSOLL_RUN(exec, score_bias_backward(dscore_bias, rows, write, exec));
}

void head_gate_forward(Tensor out, Tensor gate, const Exec& exec) {
    check_device(exec, "head_gate_forward");
    check(out.shape.rank() == 3 && gate, "head_gate_forward: out {}, gate {}", out.shape, gate.shape);
    check_head_gate("head_gate_forward", out, gate);
    gate_forward(out, out, gate.reshape({out.shape[0], out.shape[1], 1}), {}, exec);
}

}  // namespace plimsoll
