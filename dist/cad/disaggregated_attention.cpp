#include "dist/cad/disaggregated_attention.h"

#include <algorithm>
#include <array>

#include "dist/cad/key_sums.h"
#include "kernels/error.h"
#include "kernels/residual.h"

namespace plimsoll {
namespace {

// Parts of the backward's way home, in the order in which they are packed.
enum BackPart : size_t { kKeyGradient, kValueGradient, kForwardedKeyGradient, kForwardedValueGradient };

bool has_learned_bias(const AttentionSpec& spec) {
    return spec.bias_kind == ScoreBias::kLearned;
}

// What homes have learned per head travels with their tasks: sink logits or biases, (NH).
bool has_learned(const AttentionSpec& spec) {
    return spec.extra_column == ExtraColumn::kLearnedLogit || has_learned_bias(spec);
}

// Rows on their way, and where the rank sends rows to itself, at their place.
void send(RowExchange& exchange, const std::vector<RowPart>& parts, int rank, const Exec& exec) {
    exchange.pack(parts, exec);
    exchange.begin();
    for (const RowPart& part : parts) copy_own(part, rank, exec);
}

}  // namespace

CaCosts CaShape::forward_costs(const AttentionSpec& spec) const {
    const int64_t per_head = NH * size_of(accumulator_of(dtype));
    return {.query_out = NH * HS * size_of(dtype),
            .query_back = NH * VS * size_of(dtype) + (is_normalized(spec.weighting) ? per_head : 0),
            .key_out = NKV * (HS + VS) * size_of(dtype),
            .pair_out = has_learned(spec) ? per_head : 0};
}

CaCosts CaShape::backward_costs(const AttentionSpec& spec) const {
    const int64_t per_head = NH * size_of(accumulator_of(dtype));
    return {.query_out = NH * (HS + VS) * size_of(dtype) + (is_normalized(spec.weighting) ? 2 * per_head : 0),
            .query_back = NH * HS * size_of(dtype) + (has_learned_bias(spec) ? per_head : 0),
            .key_out = NKV * (HS + VS) * size_of(dtype),
            .key_back = NKV * (HS + VS) * size_of(accumulator_of(dtype)),
            .pair_out = has_learned_bias(spec) ? per_head : 0};
}

void RankAttention::tasks_forward(const AttentionTensors& t, const CaTasks& tasks, const AttentionSpec& spec,
                                  const Exec& exec) {
    attention_tasks_forward(t, tasks, spec, exec);
}

void RankAttention::tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                                   const CaTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    attention_tasks_backward(d, t, delta, tasks, spec, exec);
}

void RankAttention::rows_backward(const AttentionCall& call, Tensor delta, const Exec& exec) {
    attention_backward_rows(call.d, delta, call.t, call.cu_seqlens, call.spec, call.write, exec);
}

void RankAttention::forward(const AttentionCall& call, const Exec& exec) {
    attention_forward(call.t, call.cu_seqlens, call.spec, exec);
}

void RankAttention::backward(const AttentionCall& call, const Exec& exec) {
    attention_backward(call.d, call.t, call.cu_seqlens, call.spec, call.write, exec);
}

DisaggregatedAttention::DisaggregatedAttention(Communicator& group, CaRounds& rounds, const CaShape& shape, int lanes,
                                               std::unique_ptr<RankAttention> here)
    : group_(group), rounds_(rounds), shape_(shape), here_(std::move(here)) {
    for (int lane = 0; lane < lanes; ++lane) lanes_.push_back(std::make_unique<Lane>(group));
}

void DisaggregatedAttention::size_buffers(Lane& lane, const CaRound& round, const AttentionSpec& spec, bool backward,
                                          const Exec& exec) {
    const auto& [NH, NKV, HS, VS, dtype] = shape_;
    const bool normalized = is_normalized(spec.weighting);
    const DType sums = accumulator_of(dtype);
    const Shape queries{round.query_rows, NH, HS}, outs{round.query_rows, NH, VS}, states{NH, round.query_rows};
    const Shape keys{round.key_rows, NKV, HS}, values{round.key_rows, NKV, VS};
    lane.q = lane.q_memory.tensor(queries, dtype, exec);
    lane.k = lane.k_memory.tensor(keys, dtype, exec);
    lane.v = lane.v_memory.tensor(values, dtype, exec);
    lane.lse = normalized ? lane.lse_memory.tensor(states, sums, exec) : Tensor{};
    lane.learned = has_learned(spec) ? lane.learned_memory.tensor({round.ranks, NH}, sums, exec) : Tensor{};
    if (!backward) {
        lane.out = lane.out_memory.tensor(outs, dtype, exec);
        return;
    }
    lane.dbias = has_learned_bias(spec) ? lane.dbias_memory.tensor(states, sums, exec) : Tensor{};
    lane.delta = normalized ? lane.delta_memory.tensor(states, sums, exec) : Tensor{};
    lane.dout = lane.dout_memory.tensor(outs, dtype, exec);
    lane.dq = lane.dq_memory.tensor(queries, dtype, exec);
    lane.dk = lane.dk_memory.tensor(keys, sums, exec);
    lane.dv = lane.dv_memory.tensor(values, sums, exec);
}

std::vector<RowPart> DisaggregatedAttention::key_parts(const Lane& lane, const CaRound& round,
                                                       const AttentionCall& call) const {
    return {RowPart::rows(round.keys, call.t.k, lane.k), RowPart::rows(round.keys, call.t.v, lane.v),
            RowPart::rows(round.relayed, call.t.k, lane.k), RowPart::rows(round.relayed, call.t.v, lane.v)};
}

template <class Compute>
void DisaggregatedAttention::receive(Lane& lane, const CaRound& round, CaStopwatch& watch, const Exec& exec,
                                     Compute&& compute_here) {
    if (!round.two_hops) {
        compute_here();
        watch.lap(CaPhase::kOwn);
        lane.dispatch.end(exec);
        watch.lap(CaPhase::kWaitForTasks);
        return;
    }
    lane.dispatch.end(exec);
    watch.lap(CaPhase::kWaitForTasks);
    lane.relay.pack({RowPart::rows(round.forwarded, lane.k, lane.k), RowPart::rows(round.forwarded, lane.v, lane.v)},
                    exec);
    lane.relay.begin();
    watch.lap(CaPhase::kDispatch);
    compute_here();
    watch.lap(CaPhase::kOwn);
    lane.relay.end(exec);
    watch.lap(CaPhase::kWaitForTasks);
}

AttentionTensors DisaggregatedAttention::served_tensors(const Lane& lane, const CaRound& round, size_t group,
                                                        const AttentionSpec& spec) const {
    AttentionTensors t{};
    t.out = lane.out, t.lse = lane.lse, t.q = lane.q, t.k = lane.k, t.v = lane.v;
    if (has_learned(spec))
        (has_learned_bias(spec) ? t.score_bias : t.sink_logit) =
            lane.learned.slice_rows(std::max(round.sink_of[group], 0), 1).reshape({shape_.NH});
    return t;
}

RowPart DisaggregatedAttention::learned_part(const Lane& lane, const CaRound& round, const AttentionCall& call,
                                             const Exec& exec) const {
    const Tensor values = has_learned_bias(call.spec) ? call.t.score_bias : call.t.sink_logit;
    const Tensor own = values ? values.reshape({1, shape_.NH}) : Tensor{};
    if (own) {
        const Tensor here = lane.learned.slice_rows(round.rank, 1);  // of spanning documents this rank serves itself
        copy_rects(std::array{CopyRect{here.data, own.bytes(), own.data, own.bytes(), own.bytes(), 1}}, exec);
    }
    return RowPart::rows(round.pairs, own, lane.learned);
}

void DisaggregatedAttention::begin_forward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.forward_round(call);
    if (!round.plan.moves) return;
    CaStopwatch watch(timeline_, Pass::kForward, call);
    Lane& lane = lane_of(call);
    size_buffers(lane, round, call.spec, false, exec);
    std::vector<RowPart> parts;
    if (has_learned(call.spec)) parts.push_back(learned_part(lane, round, call, exec));
    parts.push_back(RowPart::rows(round.queries, call.t.q, lane.q));
    std::ranges::copy(key_parts(lane, round, call), std::back_inserter(parts));
    send(lane.dispatch, parts, round.rank, exec);
    watch.lap(CaPhase::kDispatch);
}

void DisaggregatedAttention::compute_forward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.forward_round(call);
    CaStopwatch watch(timeline_, Pass::kForward, call);
    if (!round.plan.moves) {
        if (call.t.q) here_->forward(call, exec);
        watch.lap(CaPhase::kOwn);
        return;
    }
    Lane& lane = lane_of(call);
    AttentionTensors here = call.t;
    here.gate = {};
    receive(lane, round, watch, exec, [&] {
        for (const CaTasks* tasks : {&round.alone, &round.shared})
            if (!tasks->tasks.empty()) here_->tasks_forward(here, *tasks, call.spec, exec);
    });
    for (size_t group = 0; group < round.served.size(); ++group)
        if (!round.served[group].tasks.empty())
            here_->tasks_forward(served_tensors(lane, round, group, call.spec), round.served[group], call.spec, exec);
    watch.lap(CaPhase::kServed);
    lane.home_queries = round.queries.reversed();
    std::vector<RowPart> parts;
    if (is_normalized(call.spec.weighting))
        parts.push_back(RowPart::columns_of(lane.home_queries, lane.lse, call.t.lse));
    parts.push_back(RowPart::rows(lane.home_queries, lane.out, call.t.out));
    send(lane.back, parts, round.rank, exec);
    watch.lap(CaPhase::kReturn);
}

void DisaggregatedAttention::end_forward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.forward_round(call);
    if (!round.plan.moves) return;
    CaStopwatch watch(timeline_, Pass::kForward, call);
    lane_of(call).back.end(exec);
    watch.lap(CaPhase::kWaitForResults);
    if (call.t.gate) head_gate_forward(call.t.out, call.t.gate, exec);
}

void DisaggregatedAttention::begin_backward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.backward_round(call);
    if (!round.plan.moves) return;
    CaStopwatch watch(timeline_, Pass::kBackward, call);
    Lane& lane = lane_of(call);
    size_buffers(lane, round, call.spec, true, exec);
    lane.home_delta = lane.home_dbias = {};
    if (call.t.q) {
        const int64_t N = call.t.q.rows();
        const DType sums = accumulator_of(shape_.dtype);
        lane.home_delta = lane.home_delta_memory.tensor({shape_.NH, N}, sums, exec);
        lane.home_dk = lane.home_dk_memory.tensor({N, shape_.NKV, shape_.HS}, sums, exec);
        lane.home_dv = lane.home_dv_memory.tensor({N, shape_.NKV, shape_.VS}, sums, exec);
        if (has_learned_bias(call.spec)) lane.home_dbias = lane.home_dbias_memory.tensor({shape_.NH, N}, sums, exec);
        here_->rows_backward(call, lane.home_delta, exec);
    }
    std::vector<RowPart> parts;
    if (has_learned_bias(call.spec)) parts.push_back(learned_part(lane, round, call, exec));
    if (is_normalized(call.spec.weighting)) {
        parts.push_back(RowPart::columns_of(round.queries, call.t.lse, lane.lse));
        parts.push_back(RowPart::columns_of(round.queries, lane.home_delta, lane.delta));
    }
    parts.push_back(RowPart::rows(round.queries, call.t.q, lane.q));
    parts.push_back(RowPart::rows(round.queries, call.d.out, lane.dout));
    std::ranges::copy(key_parts(lane, round, call), std::back_inserter(parts));
    send(lane.dispatch, parts, round.rank, exec);
    watch.lap(CaPhase::kDispatch);
}

void DisaggregatedAttention::compute_backward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.backward_round(call);
    CaStopwatch watch(timeline_, Pass::kBackward, call);
    if (!round.plan.moves) {
        if (call.t.q) here_->backward(call, exec);
        watch.lap(CaPhase::kOwn);
        return;
    }
    Lane& lane = lane_of(call);
    receive(lane, round, watch, exec, [&] {
        if (!call.t.q) return;
        AttentionTensors here = call.t, gradients = call.d;
        here.gate = gradients.gate = {};
        gradients.score_bias = lane.home_dbias;
        if (!round.alone.tasks.empty())
            here_->tasks_backward(gradients, here, lane.home_delta, round.alone, call.spec, exec);
        fill_rows_zero(lane.home_dk, round.summed, exec);
        fill_rows_zero(lane.home_dv, round.summed, exec);
        gradients.k = lane.home_dk, gradients.v = lane.home_dv;
        if (!round.shared.tasks.empty())
            here_->tasks_backward(gradients, here, lane.home_delta, round.shared, call.spec, exec);
    });
    for (size_t group = 0; group < round.served.size(); ++group) {
        if (round.served[group].tasks.empty()) continue;
        AttentionTensors gradients{};
        gradients.out = lane.dout, gradients.q = lane.dq, gradients.k = lane.dk, gradients.v = lane.dv;
        gradients.score_bias = lane.dbias;
        here_->tasks_backward(gradients, served_tensors(lane, round, group, call.spec), lane.delta, round.served[group],
                              call.spec, exec);
    }
    watch.lap(CaPhase::kServed);
    const int64_t of_keys = shape_.NKV * shape_.HS, of_values = shape_.NKV * shape_.VS;
    const DType sums = accumulator_of(shape_.dtype);
    lane.home_queries = round.queries.reversed();
    lane.home_keys = round.keys.reversed(), lane.home_forwarded = round.forwarded.reversed();
    std::vector<RowPart> parts{RowPart::by_caller(lane.home_keys, of_keys, sums),
                               RowPart::by_caller(lane.home_keys, of_values, sums),
                               RowPart::by_caller(lane.home_forwarded, of_keys, sums),
                               RowPart::by_caller(lane.home_forwarded, of_values, sums)};
    const size_t by_query = parts.size();
    if (has_learned_bias(call.spec))
        parts.push_back(RowPart::columns_of(lane.home_queries, lane.dbias, lane.home_dbias));
    parts.push_back(RowPart::rows(lane.home_queries, lane.dq, call.d.q));
    parts[kKeyGradient].from = parts[kForwardedKeyGradient].from = lane.dk;
    parts[kValueGradient].from = parts[kForwardedValueGradient].from = lane.dv;
    lane.back.pack(parts, exec);
    lane.back.begin();
    for (size_t part = by_query; part < parts.size(); ++part) copy_own(parts[part], round.rank, exec);
    parts[kKeyGradient].to = lane.home_dk, parts[kValueGradient].to = lane.home_dv;
    copy_own(parts[kKeyGradient], round.rank, exec);
    copy_own(parts[kValueGradient], round.rank, exec);
    watch.lap(CaPhase::kReturn);
}

void DisaggregatedAttention::end_backward(const AttentionCall& call, const Exec& exec) {
    const CaRound& round = rounds_.backward_round(call);
    if (!round.plan.moves) return;
    Lane& lane = lane_of(call);
    CaStopwatch watch(timeline_, Pass::kBackward, call);
    lane.back.end(exec);
    watch.lap(CaPhase::kWaitForResults);
    if (round.two_hops) send_relayed_sums(lane, round, exec);
    if (call.t.q) add_up_keys(lane, round, call, exec);
    if (call.d.score_bias) score_bias_backward(call.d.score_bias, lane.home_dbias, call.write, exec);
    watch.lap(CaPhase::kAddUp);
}

// A relay adds up what the servers have of a piece of keys, and the owner gets the sum.
void DisaggregatedAttention::send_relayed_sums(Lane& lane, const CaRound& round, const Exec& exec) {
    lane.home_relayed = round.relayed.reversed();
    const DType sums = accumulator_of(shape_.dtype);
    lane.last.pack({RowPart::by_caller(lane.home_relayed, shape_.NKV * shape_.HS, sums),
                    RowPart::by_caller(lane.home_relayed, shape_.NKV * shape_.VS, sums)},
                   exec);
    for (const KeySum& sum : round.relay_sums)
        for (const size_t which : {size_t{0}, size_t{1}}) {
            const Tensor own = which ? lane.dv : lane.dk, to = lane.last.outgoing(which, sum.owner, sum.row, sum.count);
            const auto part = [&](int64_t i) {
                const KeySumPart& p = round.parts[static_cast<size_t>(i)];
                return p.peer == round.rank
                           ? as_matrix(own.slice_rows(p.row, sum.count))
                           : lane.back.incoming(kForwardedKeyGradient + which, p.peer, p.row, sum.count);
            };
            residual_forward(to, part(sum.first_part), part(sum.first_part + 1), exec);
            for (int64_t i = sum.first_part + 2; i < sum.last_part; ++i) residual_forward(to, to, part(i), exec);
        }
    lane.last.begin();
    lane.last.end(exec);
}

void DisaggregatedAttention::add_up_keys(Lane& lane, const CaRound& round, const AttentionCall& call,
                                         const Exec& exec) {
    for (const KeySum& sum : round.owner_sums)
        for (const size_t which : {size_t{0}, size_t{1}}) {
            const auto part = [&](int64_t i) {
                const KeySumPart& p = round.parts[static_cast<size_t>(i)];
                return sum.relayed ? lane.last.incoming(which, p.peer, p.row, sum.count)
                                   : lane.back.incoming(kKeyGradient + which, p.peer, p.row, sum.count);
            };
            const Tensor first = part(sum.first_part);
            for (int64_t i = sum.first_part + 1; i < sum.last_part; ++i) residual_forward(first, first, part(i), exec);
            const Tensor own = as_matrix((which ? lane.home_dv : lane.home_dk).slice_rows(sum.row, sum.count));
            residual_forward(own, own, first, exec);
        }
    store_key_gradients(call.d.k, lane.home_dk, round.summed, lane.rounded_memory, exec);
    store_key_gradients(call.d.v, lane.home_dv, round.summed, lane.rounded_memory, exec);
}

}  // namespace plimsoll
