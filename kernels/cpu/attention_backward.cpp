#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {
namespace {

// What backward needs of a block of queries before it looks at any key: where the rows live.
template <class T>
class GradientRows {
    using R = Accumulator<T>;

  public:
    Tensor dgate, out, lse, sink_logit, gate;

    // From dout (count, W), packed: delta = rowsum(dout * out), the gate's gradient, and dout times the gate. Returns
    // the block's part of the extra column's gradient. `row` is the first in out, lse and gate.
    R block(R* delta, R* dout, int64_t head, int64_t row, int64_t count, int64_t W) const {
        const int64_t HS = out.shape[2];
        const HeadRows<T> outs(out, head, row);
        for (int64_t i = 0; i < count; ++i) {
            const T* y = outs.row(i);
            R* d = dout + i * W;
            delta[i] = lane_sum<R>(HS, [&](int64_t c) { return d[c] * static_cast<R>(y[c]); });
            if (!gate) continue;
            const R g = gate_of<T>(gate, row + i, head);
            dgate.ptr<T>()[(row + i) * gate.shape[1] + head] = static_cast<T>(delta[i] * (R(1) - g));
            for (int64_t c = 0; c < HS; ++c) d[c] *= g;
        }
        R dsink_part = 0;
        if (sink_logit) {
            const R* saved = lse.ptr<R>() + head * out.shape[0] + row;
            for (int64_t i = 0; i < count; ++i)
                if (saved[i] != -std::numeric_limits<R>::infinity())
                    dsink_part -= std::exp(sink_logit.ptr<R>()[head] - saved[i]) * delta[i];
        }
        return dsink_part;
    }
};

// dscore_bias from the gradients (NH, N) of each query's bias.
template <class R>
void sum_of_queries(Tensor dscore_bias, const R* rows, int64_t N, Write write, const Exec& exec) {
    const int64_t NH = dscore_bias.elements();
    R* const to = dscore_bias.ptr<R>();
#pragma omp parallel for num_threads(exec.threads)
    for (int64_t head = 0; head < NH; ++head)
        to[head] = (write == Write::kAccumulate ? to[head] : R(0)) +
                   lane_sum<R>(N, [&](int64_t i) { return rows[head * N + i]; });
}

// dsink_logit from the parts (documents, NH) of documents, in their order.
template <class R>
void sum_of_documents(Tensor dsink_logit, const R* parts, int64_t documents, Write write) {
    const int64_t NH = dsink_logit.elements();
    for (int64_t head = 0; head < NH; ++head) {
        R total = 0;
        for (int64_t i = 0; i < documents; ++i) total += parts[i * NH + head];
        R& to = dsink_logit.ptr<R>()[head];
        to = (write == Write::kAccumulate ? to : R(0)) + total;
    }
}

// Buffers of one thread: the keys and values of a range for one key head with their gradients, and one block of
// queries.
template <class R>
struct BackwardTile {
    R *keys, *values, *dkeys, *dvalues;                      // (n, W) each
    R *query_rows, *queries, *dout_rows, *douts, *dqueries;  // (64, W), (HS, 64), (64, W), (HS, 64), (64, W)
    R *weights, *dscores;                                    // (64, 64) each, keys by queries
    BackwardTile(int64_t n, int64_t HS, int64_t W) {
        R* at = workspace<BackwardTile, R>(4 * n * W + 3 * kQueries * W + 2 * HS * kQueries + 2 * kKeys * kQueries);
        const auto take = [&](int64_t count) { return std::exchange(at, at + count); };
        keys = take(n * W), values = take(n * W), dkeys = take(n * W), dvalues = take(n * W);
        query_rows = take(kQueries * W), queries = take(HS * kQueries), dout_rows = take(kQueries * W);
        douts = take(HS * kQueries), dqueries = take(kQueries * W);
        weights = take(kKeys * kQueries), dscores = take(kKeys * kQueries);
    }
};

template <class V, class T>
class Backward {
    using R = Accumulator<T>;

  public:
    const AttentionTensors &d, &t;
    Tensor delta;
    const GradientRows<T>* local;  // makes what is in `delta` otherwise, and has a gate or not
    R* dsink;                      // (ranges, NH), for a learned extra column, if local
    R* dbias;                      // (NH, N), each query's part of a learned bias' gradient, or null
    const AttentionSpec& spec;

    // One key head of one range: its query heads and the tasks' blocks of queries in ascending order.
    void unit(const KeyRange& range, std::span<const AttentionTask> tasks, R* dsink_of_range, int64_t kv_head) const {
        const int64_t NH = t.q.shape[1], group = NH / t.k.shape[1], HS = t.q.shape[2], W = round_up(HS, kPanel);
        const int64_t n = range.rows(), padded = round_up(n, kRows);
        const BackwardTile<R> tile(padded, HS, W);
        pack_rows(tile.keys, HeadRows<T>(t.k, kv_head, range.row), 0, n, padded, HS, W, R(1));
        pack_rows(tile.values, HeadRows<T>(t.v, kv_head, range.row), 0, n, padded, HS, W, R(1));
        std::fill_n(tile.dkeys, padded * W, R(0));
        std::fill_n(tile.dvalues, padded * W, R(0));
        for (int64_t h = kv_head * group; d.key_bias && h < (kv_head + 1) * group; ++h)
            for (int64_t j = 0; j < n; ++j) KeyBias<R>(d.key_bias, h, range.row).of(j) = 0;
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            R dsink_sum = 0;
            for (const AttentionTask& task : tasks)
                for_each_block(task,
                               [&](const QueryBlock& queries) { dsink_sum += block(tile, range, queries, head, W); });
            if (dsink_of_range) dsink_of_range[head] = dsink_sum;
        }
        // Queries were packed with the scale.
        unpack_gradient(d.k, kv_head, range.row, tile.dkeys, n, W);
        unpack_gradient(d.v, kv_head, range.row, tile.dvalues, n, W);
    }

  private:
    struct Rows {
        alignas(64) R lse[kQueries] = {}, bias[kQueries] = {}, delta[kQueries] = {}, dbias[kQueries] = {};
        int64_t count;                   // of queries
        KeyBias<R> key_bias, dkey_bias;  // of the range's keys
    };

    // Adds one block of queries to dkeys and dvalues, writes its dq. Returns its part of the extra column's gradient.
    R block(const BackwardTile<R>& tile, const KeyRange& range, const QueryBlock& queries, int64_t head,
            int64_t W) const {
        const int64_t NH = t.q.shape[1], HS = t.q.shape[2];
        const ScoreRule<R> rule{Mask(spec), static_cast<R>(alibi_slope(spec, head, NH))};
        pack_rows(tile.query_rows, HeadRows<T>(t.q, head, queries.row), 0, queries.count, kQueries, HS, W,
                  static_cast<R>(spec.scale));
        pack_rows(tile.dout_rows, HeadRows<T>(d.out, head, queries.row), 0, queries.count, kQueries, HS, W, R(1));
        transpose_rows(tile.queries, tile.query_rows, HS, W);
        std::fill_n(tile.dqueries, kQueries * W, R(0));

        Rows rows{.count = queries.count,
                  .key_bias = {t.key_bias, head, range.row},
                  .dkey_bias = {d.key_bias, head, range.row}};
        for (int64_t i = 0; i < kQueries; ++i)
            rows.bias[i] = static_cast<R>(
                row_bias<V>(spec, rule.mask, queries.position + i, range.end, of_head<R>(t.score_bias, head)));
        R dsink_part = 0;
        if (local && (kIsNormalized<V> || local->gate))
            dsink_part = local->block(rows.delta, tile.dout_rows, head, queries.row, queries.count, W);
        const int64_t first = head * t.q.shape[0] + queries.row;
        if (kIsNormalized<V> && !local) std::copy_n(delta.ptr<R>() + first, queries.count, rows.delta);
        take_statistic(rows, tile.dout_rows, first, queries.count, W);
        transpose_rows(tile.douts, tile.dout_rows, HS, W);
        for_each_tile(range, queries, rule.mask, [&](int64_t j0, int64_t here) {
            add_keys(tile, rows, dbias, rule, queries.position, j0, range.row_of(j0) - range.row, here, HS, W);
        });
        const HeadRows<T> to(d.q, head, queries.row);
        for (int64_t i = 0; i < queries.count; ++i)
            unpack_row(to.row(i), tile.dqueries + i * W, HS, static_cast<R>(spec.scale));
        if (dbias) std::copy_n(rows.dbias, queries.count, dbias + first);
        return dsink_part;
    }

    // What forward saved of the rows from `first` on: lse, or the factor of a row's weights, which goes on its dout and
    // delta instead.
    void take_statistic(Rows& rows, R* dout, int64_t first, int64_t count, int64_t W) const {
        const R* const saved = kIsNormalized<V> ? t.lse.ptr<R>() + first : nullptr;
        for (int64_t i = 0; i < count; ++i) {
            if constexpr (V::kInfo.normalization == Normalization::kExp)  // -inf of a row whose weights are masked
                rows.lse[i] = saved[i] == -std::numeric_limits<R>::infinity() ? R(0) : saved[i];
            if constexpr (kHasFactor<V>) {
                const R sum = kIsNormalized<V> ? saved[i] : R(0);
                const R factor = weight_factor<V>(sum, RowState<R>{.lse = 0, .bias = rows.bias[i]});
                rows.delta[i] *= factor * delta_factor<V>(sum);
                for (int64_t c = 0; c < W; ++c) dout[i * W + c] *= factor;
            }
        }
    }

    // One block of queries, from position i0 on, with `here` keys, from position j0 on: those of the range's row
    // `key_row`. Not inlined, so that the products' loops have the registers.
    [[gnu::noinline]] static void add_keys(const BackwardTile<R>& tile, Rows& of, bool biases, const ScoreRule<R>& rule,
                                           int64_t i0, int64_t j0, int64_t key_row, int64_t here, int64_t HS,
                                           int64_t W) {
        const int64_t rows = round_up(here, kRows), at = key_row * W;
        std::fill_n(tile.weights, rows * kQueries, R(0));
        std::fill_n(tile.dscores, rows * kQueries, R(0));
        tile_gemm(tile.weights, kQueries, tile.keys + at, W, 1, tile.queries, kQueries, rows, kQueries, HS);
        of.key_bias.add_to(tile.weights, key_row, here, of.count);
        rule.apply(tile.weights, i0, j0, rows);
        tile_gemm(tile.dscores, kQueries, tile.values + at, W, 1, tile.douts, kQueries, rows, kQueries, HS);
        for (int64_t j = 0; j < rows; ++j)
            weigh(tile.weights + j * kQueries, tile.dscores + j * kQueries, of,
                  biases && j < here ? of.dbias : nullptr);
        of.dkey_bias.add_sums(tile.dscores, key_row, here, of.count);
        tile_gemm(tile.dvalues + at, W, tile.weights, kQueries, 1, tile.dout_rows, W, rows, W, kQueries);
        tile_gemm(tile.dkeys + at, W, tile.dscores, kQueries, 1, tile.query_rows, W, rows, W, kQueries);
        tile_gemm(tile.dqueries, W, tile.dscores, 1, kQueries, tile.keys + at, W, kQueries, W, here);
    }

    // One row of S^T and of dP^T: its scores become weights, dL/dp becomes dL/ds, which is added to dbias if that is
    // wanted. Masked scores have neither.
    static void weigh(R* scores, R* gradients, const Rows& of, R* dbias) {
        if (dbias) return weigh_row_of<true>(scores, gradients, of, dbias);
        weigh_row_of<false>(scores, gradients, of, dbias);
    }
    template <bool kBiases>
    static void weigh_row_of(R* scores, R* gradients, const Rows& of, R* dbias) {
#pragma omp simd
        for (int64_t i = 0; i < kQueries; ++i) {
            const RowState<R> row{.lse = of.lse[i], .bias = of.bias[i]};
            const R s = scores[i], f = V::weight(s, row);
            const R ds = score_gradient<V>(s, f, gradients[i], of.delta[i], row);
            const bool masked = s == -std::numeric_limits<R>::infinity();
            if constexpr (kBiases) dbias[i] += masked ? R(0) : bias_gradient<V>(f, gradients[i], ds);
            scores[i] = masked ? R(0) : f;
            gradients[i] = masked ? R(0) : ds;
        }
    }

    // Rows of keys' gradients in the dtype of the tensor: T, or that of sums.
    static void unpack_gradient(Tensor to, int64_t head, int64_t row, const R* from, int64_t n, int64_t W) {
        const auto unpack = [&]<class G>(const HeadRows<G>& rows) {
            for (int64_t j = 0; j < n; ++j) unpack_row(rows.row(j), from + j * W, to.shape[2], R(1));
        };
        to.dtype == kDTypeOf<T> ? unpack(HeadRows<T>(to, head, row)) : unpack(HeadRows<R>(to, head, row));
    }
};

// Every range of `tasks`, by key heads. `delta` is absent and `local` present in the local path.
template <class V, class T>
void run_backward(const Backward<V, T>& backward, const AttentionTasks& tasks, const Exec& exec) {
    const auto ranges = static_cast<int64_t>(tasks.keys.size());
    const int64_t NH = backward.t.q.shape[1], NKV = backward.t.k.shape[1];
    int64_t* const first = workspace<struct FirstTask, int64_t>(ranges + 1);
    for (int64_t range = 0, task = 0; range <= ranges; ++range) {
        first[range] = task;
        while (task < static_cast<int64_t>(tasks.tasks.size()) && tasks.tasks[static_cast<size_t>(task)].keys == range)
            ++task;
    }
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
    for (int64_t unit = 0; unit < ranges * NKV; ++unit) {
        const int64_t range = unit / NKV;
        backward.unit(tasks.keys[static_cast<size_t>(range)],
                      tasks.tasks.subspan(static_cast<size_t>(first[range]),
                                          static_cast<size_t>(first[range + 1] - first[range])),
                      backward.dsink ? backward.dsink + range * NH : nullptr, unit % NKV);
    }
}

}  // namespace

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    const int64_t documents = static_cast<int64_t>(cu_seqlens.size()) - 1;
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_float(t.q.dtype, [&]<class T>() {
            using R = Accumulator<T>;
            R* dsink = d.sink_logit ? workspace<struct SinkParts, R>(documents * t.q.shape[1]) : nullptr;
            const GradientRows<T> local{d.gate, t.out, t.lse, t.sink_logit, t.gate};
            const int64_t N = t.q.shape[0];
            R* const dbias = d.score_bias ? workspace<struct BiasRows, R>(t.q.shape[1] * N) : nullptr;
            run_backward(Backward<V, T>{d, t, {}, &local, dsink, dbias, spec}, tasks_of(cu_seqlens), exec);
            if (dsink) sum_of_documents(d.sink_logit, dsink, documents, write);
            if (dbias) sum_of_queries(d.score_bias, dbias, N, write, exec);
        });
    });
}

void attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                             std::span<const int32_t> cu_seqlens, const AttentionSpec& /*spec*/, Write write,
                             const Exec& exec) {
    const AttentionTasks documents = tasks_of(cu_seqlens);
    const int64_t N = t.out.shape[0], NH = t.out.shape[1], HS = t.out.shape[2], W = round_up(HS, kPanel);
    const auto count = static_cast<int64_t>(documents.tasks.size());
    dispatch_float(t.out.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        R* dsink = d.sink_logit ? workspace<struct SinkParts, R>(count * NH) : nullptr;
        const GradientRows<T> rows{d.gate, t.out, t.lse, t.sink_logit, t.gate};
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
        for (int64_t unit = 0; unit < count * NH; ++unit) {
            const int64_t head = unit % NH;
            R* const packed = workspace<struct PackedRows, R>(kQueries * W);
            R dsink_sum = 0;
            for_each_block(documents.tasks[static_cast<size_t>(unit / NH)], [&](const QueryBlock& queries) {
                const HeadRows<T> dout(d.out, head, queries.row);
                pack_rows(packed, dout, 0, queries.count, queries.count, HS, W, R(1));
                dsink_sum +=
                    rows.block(delta.ptr<R>() + head * N + queries.row, packed, head, queries.row, queries.count, W);
                for (int64_t i = 0; t.gate && i < queries.count; ++i) unpack_row(dout.row(i), packed + i * W, HS, R(1));
            });
            if (dsink) dsink[unit] = dsink_sum;
        }
        if (dsink) sum_of_documents(d.sink_logit, dsink, count, write);
    });
}

void attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                              const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_float(t.q.dtype, [&]<class T>() {
            auto* const dbias = d.score_bias ? d.score_bias.ptr<Accumulator<T>>() : nullptr;
            run_backward(Backward<V, T>{d, t, delta, nullptr, nullptr, dbias, spec}, tasks, exec);
        });
    });
}

void score_bias_backward(Tensor dscore_bias, Tensor rows, Write write, const Exec& exec) {
    if (rows.dtype == DType::kF64)
        sum_of_queries(dscore_bias, rows.ptr<double>(), rows.shape[1], write, exec);
    else
        sum_of_queries(dscore_bias, rows.ptr<float>(), rows.shape[1], write, exec);
}

}  // namespace plimsoll::cpu
