// Core attention of parts of documents: what a rank computes for others (dist/cad), and what is left to compute at
// home.
#pragma once

#include "kernels/attention.h"

namespace plimsoll {

// Keys of one document as they lie in k and v: rows row .. row + prefix - 1 hold positions 0 .. prefix - 1, the rows
// after them positions begin .. end - 1. `prefix` and `begin` are multiples of kKeyBlock, prefix <= begin.
struct KeyRange {
    int64_t row = 0;
    int64_t prefix = 0;
    int64_t begin = 0, end = 0;
    int64_t rows() const { return prefix + end - begin; }
    int64_t row_of(int64_t position) const { return row + (position < prefix ? position : prefix + position - begin); }
};
inline constexpr int64_t kKeyBlock = 128;

// Queries of one document: `count` rows of q from `row` on, at consecutive positions from `position` on.
struct AttentionTask {
    int64_t row = 0;
    int64_t count = 0;
    int64_t position = 0;
    int64_t keys = 0;  // which of the ranges; it holds every key these queries see
};

// Tasks in ascending order of their range, then of their position; rows of q ascend likewise. Ranges ascend in k and
// do not overlap. Host memory, whatever the device.
struct AttentionTasks {
    std::span<const KeyRange> keys;
    std::span<const AttentionTask> tasks;
};

// out and lse of the tasks' queries, as attention_forward has them; other rows stay as they are. q (N, NH, HS), out
// (N, NH, VS), lse (NH, N); k (M, NKV, HS), v (M, NKV, VS): M may differ from N. The gate is not applied: t.gate must
// be empty. Tiles are counted from each document's first position, so a query's bits do not depend on the task it is in
// (on the CPU).
void attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                             const Exec& exec);

// From t.q, t.k, t.v, t.lse, d.out (times the gate) and delta (NH, N), in lse's dtype: d.q of the tasks' queries, d.k
// and d.v of the rows of every range, overwritten, also where a range has no task; other rows stay as they are. d.k and
// d.v are in q's dtype or in that of sums (accumulator_of). t.out and t.gate are not read. Sums over queries run in
// ascending order of position: a range with all queries of its document gives the bits of attention_backward, if d.out
// has those of gate and gradient multiplied in the dtype of sums. With a learned bias d.score_bias is (NH, N), in the
// dtype of sums: each query's part of its gradient, for score_bias_backward where the queries live.
void attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                              const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec);

// What backward needs of every row, where the rows live (attention_backward's formulas): from d.out, t.out, t.lse,
// t.sink_logit and t.gate
//   delta (NH, N) = rowsum(dout * out); dgate; dsink_logit as `write` says, with attention_backward's bits;
//   d.out *= sigmoid(gate), in place, if there is a gate.
void attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                             std::span<const int32_t> cu_seqlens, const AttentionSpec& spec, Write write,
                             const Exec& exec);

// dscore_bias (NH) = the sums of rows (NH, N), as `write` says: with attention_backward's bits, if every row has those
// of its query.
void score_bias_backward(Tensor dscore_bias, Tensor rows, Write write, const Exec& exec);

// out *= sigmoid(gate), in place: out (N, NH, VS), gate (N, NH), one floating dtype.
void head_gate_forward(Tensor out, Tensor gate, const Exec& exec);

}  // namespace plimsoll
