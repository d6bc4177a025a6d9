#include "dist/cad/servers_in_turn.h"

#include "dist/cad/key_sums.h"
#include "kernels/residual.h"

namespace plimsoll {
namespace {

Tensor rows_of(Tensor tensor, RowRun run) {
    return as_matrix(tensor.slice_rows(run.row, run.count));
}

// A server's part of the others' sum: the first of a row's is copied, later ones are added.
void add_part(Tensor others, Tensor part, const CaHomeRound::Server& server, const Exec& exec) {
    std::vector<CopyRect> rects;
    for (const RowRun& run : server.first) {
        const Tensor to = rows_of(others, run), from = rows_of(part, run);
        rects.push_back({to.data, to.bytes(), from.data, from.bytes(), to.bytes(), 1});
    }
    copy_rects(rects, exec);
    for (const RowRun& run : server.more)
        residual_forward(rows_of(others, run), rows_of(others, run), rows_of(part, run), exec);
}

}  // namespace

void ServersInTurn::compute_forward(const AttentionCall& call, const Exec& exec) {
    const CaHomeRound& round = rounds_.forward_round(call);
    if (!round.plan.moves) return attention_forward(call.t, call.cu_seqlens, call.spec, exec);
    AttentionTensors t = call.t;
    t.gate = {};
    attention_forward(t, call.cu_seqlens, call.spec, exec);
    if (call.t.gate) head_gate_forward(t.out, call.t.gate, exec);
}

void ServersInTurn::compute_backward(const AttentionCall& call, const Exec& exec) {
    const CaHomeRound& round = rounds_.backward_round(call);
    if (!round.plan.moves) return attention_backward(call.d, call.t, call.cu_seqlens, call.spec, call.write, exec);
    const DType sums = accumulator_of(call.t.q.dtype);
    const Shape keys = call.t.k.shape, values = call.t.v.shape;
    const Tensor delta = delta_.tensor({call.t.q.shape[1], keys[0]}, sums, exec);
    attention_backward_rows(call.d, delta, call.t, call.cu_seqlens, call.spec, call.write, exec);
    AttentionTensors t = call.t, d = call.d;
    t.gate = d.gate = {};
    if (t.score_bias) d.score_bias = dbias_.tensor(delta.shape, sums, exec);
    if (!round.alone.tasks.empty()) attention_tasks_backward(d, t, delta, round.alone, call.spec, exec);
    const Tensor dk = dk_.tensor(keys, sums, exec), dv = dv_.tensor(values, sums, exec);
    const Tensor part_dk = part_dk_.tensor(keys, sums, exec), part_dv = part_dv_.tensor(values, sums, exec);
    const Tensor others_dk = others_dk_.tensor(keys, sums, exec), others_dv = others_dv_.tensor(values, sums, exec);
    fill_rows_zero(dk, round.summed, exec);
    fill_rows_zero(dv, round.summed, exec);
    for (const CaHomeRound::Server& server : round.servers) {
        if (server.tasks.tasks.empty()) continue;
        const bool home = server.first.empty() && server.more.empty();
        d.k = home ? dk : part_dk, d.v = home ? dv : part_dv;
        attention_tasks_backward(d, t, delta, server.tasks, call.spec, exec);
        if (home) continue;
        add_part(others_dk, part_dk, server, exec);
        add_part(others_dv, part_dv, server, exec);
    }
    for (const CaHomeRound::Server& server : round.servers)
        for (const RowRun& run : server.first) {
            residual_forward(rows_of(dk, run), rows_of(dk, run), rows_of(others_dk, run), exec);
            residual_forward(rows_of(dv, run), rows_of(dv, run), rows_of(others_dv, run), exec);
        }
    store_key_gradients(call.d.k, dk, round.summed, rounded_, exec);
    store_key_gradients(call.d.v, dv, round.summed, rounded_, exec);
    if (t.score_bias) score_bias_backward(call.d.score_bias, d.score_bias, call.write, exec);
}

}  // namespace plimsoll
