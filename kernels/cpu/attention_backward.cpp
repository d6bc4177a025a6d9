#include "kernels/cpu/avx512_bf16/attention_products.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {
namespace {

// What backward needs of a block of queries before it looks at any key: where the rows live.
template <class T, class Products>
class GradientRows {
    using R = Accumulator<T>;

  public:
    Tensor dgate, out, lse, sink_logit, gate;

    // delta = rowsum(dout * out) and the gate's gradient, of `count` rows. Returns the block's part of the extra
    // column's gradient. `row` is the first in out, lse and gate.
    R block(R* delta, const HeadRows<T>& dout, int64_t head, int64_t row, int64_t count) const {
        const int64_t VS = out.shape[2];
        const HeadRows<T> outs(out, head, row);
        for (int64_t i = 0; i < count; ++i) {
            const T *y = outs.row(i), *d = dout.row(i);
            delta[i] = Products::dot(d, y, VS);
            if (!gate) continue;
            const R g = gate_of<T>(gate, row + i, head);
            dgate.ptr<T>()[(row + i) * gate.shape[1] + head] = static_cast<T>(delta[i] * (R(1) - g));
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

// Up to kQueries queries at consecutive positions of a document, of one task or of several.
struct GatheredBlock {
    int64_t position = 0, count = 0;
    int64_t row[kQueries];

    bool adjoining() const { return row[count - 1] - row[0] == count - 1; }
};

// Calls f(block) for the queries of tasks, in ascending order. Blocks begin at multiples of kQueries of the document,
// or where its queries here do: sums over queries are the same in however many tasks these are.
template <class F>
void for_each_gathered(std::span<const AttentionTask> tasks, F&& f) {
    GatheredBlock block;
    for (const AttentionTask& task : tasks)
        for (int64_t i = 0; i < task.count; ++i) {
            const int64_t position = task.position + i;
            if (block.count > 0 && (position % kQueries == 0 || position != block.position + block.count)) {
                f(block);
                block.count = 0;
            }
            if (block.count == 0) block.position = position;
            block.row[block.count++] = task.row + i;
        }
    if (block.count > 0) f(block);
}

template <class V, class T, class Products>
class Backward {
    using R = Accumulator<T>;
    static constexpr int64_t kTogether = Products::kTogether;

  public:
    const AttentionTensors &d, &t;
    Tensor delta;
    const GradientRows<T, Products>* local;  // makes what is in `delta` otherwise, and has a gate or not
    R* dsink;                                // (ranges, NH), for a learned extra column, if local
    R* dbias;                                // (NH, N), each query's part of a learned bias' gradient, or null
    const AttentionSpec& spec;

    // One key head of one range: its query heads and the tasks' blocks of queries in ascending order.
    void unit(const KeyRange& range, std::span<const AttentionTask> tasks, R* dsink_of_range, int64_t kv_head) const {
        const int64_t NH = t.q.shape[1], group = NH / t.k.shape[1], n = range.rows();
        Products products(widths_of(t), n, static_cast<R>(spec.scale), true);
        products.load_keys({t.k, kv_head, range.row}, {t.v, kv_head, range.row}, n);
        for (int64_t h = kv_head * group; d.key_bias && h < (kv_head + 1) * group; ++h)
            for (int64_t j = 0; j < n; ++j) KeyBias<R>(d.key_bias, h, range.row).of(j) = 0;
        GatheredBlock blocks[kTogether];
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            const bool last = head + 1 == (kv_head + 1) * group;
            size_t count = 0;
            R dsink_sum = 0;
            for_each_gathered(tasks, [&](const GatheredBlock& queries) {
                if (count == kTogether) {
                    add(products, range, blocks, head, false, dsink_sum);
                    count = 0;
                }
                blocks[count++] = queries;
            });
            add(products, range, {blocks, count}, head, last, dsink_sum);
            if (dsink_of_range) dsink_of_range[head] = dsink_sum;
        }
    }

  private:
    struct Rows {
        alignas(64) R lse[kQueries] = {}, bias[kQueries], delta[kQueries] = {}, dbias[kQueries] = {};
    };

    // Adds some blocks of queries to the gradients of keys and values, which are written if these are the last, and
    // writes their dq. Adds to the extra column's gradient, block by block.
    void add(Products& products, const KeyRange& range, std::span<const GatheredBlock> blocks, int64_t head, bool last,
             R& dsink) const {
        const int64_t kv_head = head / (t.q.shape[1] / t.k.shape[1]);
        const ScoreRule<R> rule{Mask(spec), static_cast<R>(alibi_slope(spec, head, t.q.shape[1]))};
        Rows rows[kTogether];
        for (size_t b = 0; b < blocks.size(); ++b)
            dsink += load(products, range, blocks[b], static_cast<int64_t>(b), head, rule.mask, rows[b]);
        for_each_strip<kTogether>(range, range.end, [&](int64_t first, int64_t end) {
            products.use_strip(first);
            for (size_t b = 0; b < blocks.size(); ++b) {
                const GatheredBlock& queries = blocks[b];
                const TilesOfStrip<kTogether> tiles(range, first, end,
                                                    {queries.row[0], queries.position, queries.count}, rule.mask);
                for (const KeyTile& tile : tiles)
                    add(products, range, queries, static_cast<int64_t>(b), head, tile, rule, rows[b]);
                products.finish_queries(static_cast<int64_t>(b), end == range.rows());
                if (end == range.rows()) write(products, queries, static_cast<int64_t>(b), head, rows[b]);
            }
            products.finish_keys(first, end, last, [&](int64_t j, const R* dkey, const R* dvalue) {
                unpack_gradient(d.k, kv_head, range.row + j, dkey, products.key_scale());
                unpack_gradient(d.v, kv_head, range.row + j, dvalue, R(1));
            });
        });
        for (size_t b = 0; range.rows() == 0 && b < blocks.size(); ++b)
            write(products, blocks[b], static_cast<int64_t>(b), head, rows[b]);
    }

    // Writes the dq of a block.
    void write(const Products& products, const GatheredBlock& queries, int64_t block, int64_t head,
               const Rows& rows) const {
        for (int64_t i = 0; i < queries.count; ++i) {
            Products::unpack(HeadRows<T>(d.q, head, queries.row[i]).data, products.dquery(block, i), t.q.shape[2],
                             static_cast<R>(spec.scale));
            if (dbias) dbias[head * t.q.shape[0] + queries.row[i]] = rows.dbias[i];
        }
    }

    // Brings the rows of a block. Returns its part of the extra column's gradient.
    R load(Products& products, const KeyRange& range, const GatheredBlock& queries, int64_t block, int64_t head,
           const Mask& mask, Rows& rows) const {
        const int64_t N = t.q.shape[0];
        products.load_queries(block, rows_of<struct Queries>(t.q, head, queries), queries.count);
        for (int64_t i = 0; i < kQueries; ++i)
            rows.bias[i] = static_cast<R>(
                row_bias<V>(spec, mask, queries.position + i, range.end, of_head<R>(t.score_bias, head)));
        R dsink_part = 0;
        if (local && (kIsNormalized<V> || local->gate))  // whose queries are all of one task
            dsink_part = local->block(rows.delta, {d.out, head, queries.row[0]}, head, queries.row[0], queries.count);
        if (kIsNormalized<V> && !local)
            for (int64_t i = 0; i < queries.count; ++i) rows.delta[i] = delta.ptr<R>()[head * N + queries.row[i]];
        RowFactors<R> factors;
        const bool any = take_factors(rows, factors, head, queries);
        products.load_gradients(block, rows_of<struct Gradients>(d.out, head, queries), queries.count,
                                any ? &factors : nullptr);
        return dsink_part;
    }

    // Adds one block of queries and one tile of keys.
    void add(Products& products, const KeyRange& range, const GatheredBlock& queries, int64_t block, int64_t head,
             const KeyTile& tile, const ScoreRule<R>& rule, Rows& rows) const {
        R* const weights = workspace<Backward, R>(2 * kKeys * kQueries);
        R* const dscores = weights + kKeys * kQueries;
        const KeyBias<R> key_bias(t.key_bias, head, range.row), dkey_bias(d.key_bias, head, range.row);
        const int64_t padded = Products::padded(tile.count);
        products.use_keys(tile);
        products.scores(weights, block, tile);
        const bool fused = Products::kWeighsGradients && !dbias;
        const bool late =
            fused && !key_bias.data && rule.slope == 0 && products.score_scale() > 0;  // scaled as weighed
        if (!late) scale_scores(weights, products.score_scale(), tile.count);
        key_bias.add_to(weights, tile.first, tile.count, queries.count);
        rule.apply(weights, queries.position, tile.position, padded);
        products.weight_gradients(dscores, block, tile);
        if constexpr (Products::kWeighsGradients)
            if (fused)
                products.template weigh_gradients<V>(weights, dscores, late ? products.score_scale() : R(1), rows.lse,
                                                     rows.bias, rows.delta, block, tile);
        for (int64_t j = 0; !fused && j < padded; ++j)
            weigh(weights + j * kQueries, dscores + j * kQueries, rows, dbias && j < tile.count);
        dkey_bias.add_sums(dscores, tile.first, tile.count, queries.count);
        products.add_gradients(fused ? nullptr : weights, dscores, block, tile);
    }

    // A head of the rows of a block: where they lie, or copied, if others lie between them.
    template <class Tag>
    static HeadRows<const T> rows_of(Tensor from, int64_t head, const GatheredBlock& queries) {
        if (queries.adjoining()) return {from, head, queries.row[0]};
        const int64_t width = from.shape[2];
        T* const copy = workspace<Tag, T>(kQueries * width);
        for (int64_t i = 0; i < queries.count; ++i)
            std::copy_n(HeadRows<T>(from, head, queries.row[i]).data, width, copy + i * width);
        return {copy, width};
    }

    // What forward saved of the rows: lse, or the factor of a row's weights, which goes on its dout and delta instead.
    // Returns whether a row of dout has a factor: its gate, or this.
    bool take_factors(Rows& rows, RowFactors<R>& factors, int64_t head, const GatheredBlock& queries) const {
        const bool gated = local && local->gate;
        for (int64_t i = 0; i < queries.count; ++i) {
            const int64_t row = queries.row[i];
            const R saved = kIsNormalized<V> ? t.lse.ptr<R>()[head * t.q.shape[0] + row] : R(0);
            if constexpr (V::kInfo.normalization == Normalization::kExp)  // -inf of a row whose weights are masked
                rows.lse[i] = saved == -std::numeric_limits<R>::infinity() ? R(0) : saved;
            factors.gate[i] = gated ? gate_of<T>(local->gate, row, head) : R(1), factors.weights[i] = 1;
            if constexpr (kHasFactor<V>) {
                const R factor = weight_factor<V>(saved, RowState<R>{.lse = 0, .bias = rows.bias[i]});
                rows.delta[i] *= factor * delta_factor<V>(saved);
                factors.weights[i] = factor;
            }
        }
        return gated || kHasFactor<V>;
    }

    // One row of S^T and of dP^T: its scores become weights, dL/dp becomes dL/ds, which is added to dbias if that is
    // wanted. Masked scores have neither.
    static void weigh(R* scores, R* gradients, Rows& of, bool biases) {
        if (biases) return weigh_row_of<true>(scores, gradients, of);
        weigh_row_of<false>(scores, gradients, of);
    }
    template <bool kBiases>
    static void weigh_row_of(R* scores, R* gradients, Rows& of) {
        alignas(64) R weights[kQueries];  // apart: with what follows in one loop GCC 12 vectorises no exponential
        weigh_row<V>(weights, scores, of.lse, of.bias);
#pragma omp simd
        for (int64_t i = 0; i < kQueries; ++i) {
            const RowState<R> row{.lse = of.lse[i], .bias = of.bias[i]};
            const R s = scores[i], f = weights[i], ds = score_gradient<V>(s, f, gradients[i], of.delta[i], row);
            const bool masked = s == -std::numeric_limits<R>::infinity();
            if constexpr (kBiases) of.dbias[i] += masked ? R(0) : bias_gradient<V>(f, gradients[i], ds);
            scores[i] = f;
            gradients[i] = masked ? R(0) : ds;
        }
    }

    // A row of keys' gradients times scale, in the dtype of the tensor: T, or that of sums.
    static void unpack_gradient(Tensor to, int64_t head, int64_t row, const R* from, R scale) {
        const int64_t width = to.shape[2];
        if (to.dtype == kDTypeOf<T>)
            Products::unpack(HeadRows<T>(to, head, row).data, from, width, scale);
        else
            unpack_row(HeadRows<R>(to, head, row).data, from, width, scale);
    }
};

// Every range of `tasks`, by key heads. `delta` is absent and `local` present in the local path.
template <class V, class T, class Products>
void run_backward(const Backward<V, T, Products>& backward, const AttentionTasks& tasks, const Exec& exec) {
    const auto ranges = static_cast<int64_t>(tasks.keys.size());
    const int64_t NH = backward.t.q.shape[1], NKV = backward.t.k.shape[1];
    int64_t* const first = workspace<struct FirstTask, int64_t>(ranges + 1);
    for (int64_t range = 0, task = 0; range <= ranges; ++range) {
        first[range] = task;
        while (task < static_cast<int64_t>(tasks.tasks.size()) && tasks.tasks[static_cast<size_t>(task)].keys == range)
            ++task;
    }
#pragma omp parallel num_threads(exec.threads)
    {
        [[maybe_unused]] const typename Products::Scope scope;
#pragma omp for schedule(dynamic)
        for (int64_t unit = 0; unit < ranges * NKV; ++unit) {
            const int64_t range = unit / NKV;
            backward.unit(tasks.keys[static_cast<size_t>(range)],
                          tasks.tasks.subspan(static_cast<size_t>(first[range]),
                                              static_cast<size_t>(first[range + 1] - first[range])),
                          backward.dsink ? backward.dsink + range * NH : nullptr, unit % NKV);
        }
    }
}

}  // namespace

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    const int64_t documents = static_cast<int64_t>(cu_seqlens.size()) - 1;
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_products(t.q.dtype, [&]<class T, class Products>() {
            using R = Accumulator<T>;
            R* dsink = d.sink_logit ? workspace<struct SinkParts, R>(documents * t.q.shape[1]) : nullptr;
            const GradientRows<T, Products> local{d.gate, t.out, t.lse, t.sink_logit, t.gate};
            const int64_t N = t.q.shape[0];
            R* const dbias = d.score_bias ? workspace<struct BiasRows, R>(t.q.shape[1] * N) : nullptr;
            run_backward(Backward<V, T, Products>{d, t, {}, &local, dsink, dbias, spec}, tasks_of(cu_seqlens), exec);
            if (dsink) sum_of_documents(d.sink_logit, dsink, documents, write);
            if (dbias) sum_of_queries(d.score_bias, dbias, N, write, exec);
        });
    });
}

void attention_backward_rows(const AttentionTensors& d, Tensor delta, const AttentionTensors& t,
                             std::span<const int32_t> cu_seqlens, const AttentionSpec& /*spec*/, Write write,
                             const Exec& exec) {
    const AttentionTasks documents = tasks_of(cu_seqlens);
    const int64_t N = t.out.shape[0], NH = t.out.shape[1], VS = t.out.shape[2];
    const auto count = static_cast<int64_t>(documents.tasks.size());
    dispatch_products(t.out.dtype, [&]<class T, class Products>() {
        using R = Accumulator<T>;
        R* dsink = d.sink_logit ? workspace<struct SinkParts, R>(count * NH) : nullptr;
        const GradientRows<T, Products> rows{d.gate, t.out, t.lse, t.sink_logit, t.gate};
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
        for (int64_t unit = 0; unit < count * NH; ++unit) {
            const int64_t head = unit % NH;
            R dsink_sum = 0;
            for_each_block(documents.tasks[static_cast<size_t>(unit / NH)], [&](const QueryBlock& queries) {
                const HeadRows<T> dout(d.out, head, queries.row);
                dsink_sum +=
                    rows.block(delta.ptr<R>() + head * N + queries.row, dout, head, queries.row, queries.count);
                for (int64_t i = 0; t.gate && i < queries.count; ++i) {
                    const R g = gate_of<T>(t.gate, queries.row + i, head);
                    T* const row = dout.row(i);
#pragma omp simd
                    for (int64_t c = 0; c < VS; ++c) store(row[c], static_cast<R>(row[c]) * g);
                }
            });
            if (dsink) dsink[unit] = dsink_sum;
        }
        if (dsink) sum_of_documents(d.sink_logit, dsink, count, write);
    });
}

void attention_tasks_backward(const AttentionTensors& d, const AttentionTensors& t, Tensor delta,
                              const AttentionTasks& tasks, const AttentionSpec& spec, const Exec& exec) {
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_products(t.q.dtype, [&]<class T, class Products>() {
            auto* const dbias = d.score_bias ? d.score_bias.ptr<Accumulator<T>>() : nullptr;
            run_backward(Backward<V, T, Products>{d, t, delta, nullptr, nullptr, dbias, spec}, tasks, exec);
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
