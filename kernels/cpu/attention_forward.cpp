#include "kernels/cpu/avx512_bf16/attention_products.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {
namespace {

// A block of queries and the range of its keys.
struct Unit {
    QueryBlock queries;
    int64_t keys;
};
constexpr int64_t kUnitsTogether = 4;  // whose keys a thread packs once, at most

template <class V, class T, class Products>
class Forward {
    using R = Accumulator<T>;
    static constexpr int64_t kTogether = Products::kTogether;

  public:
    const AttentionTensors& t;
    const AttentionSpec& spec;

    // Several blocks of queries of one head.
    void run(std::span<const Unit> units, std::span<const KeyRange> ranges, int64_t head) const {
        const int64_t kv_head = head / (t.q.shape[1] / t.k.shape[1]);
        for (size_t i = 0; i < units.size();) {
            const int64_t keys = units[i].keys;
            const KeyRange& range = ranges[static_cast<size_t>(keys)];
            Products products(widths_of(t), range.rows(), static_cast<R>(spec.scale), false);
            products.load_keys({t.k, kv_head, range.row}, {t.v, kv_head, range.row}, range.rows());
            for (; i < units.size() && units[i].keys == keys; ++i) block(products, units[i].queries, range, head);
        }
    }

  private:
    // One block of queries of one head, with the keys of its document.
    void block(Products& products, const QueryBlock& queries, const KeyRange& range, int64_t head) const {
        constexpr R kInfinity = std::numeric_limits<R>::infinity();
        const int64_t NH = t.q.shape[1], VS = t.v.shape[2];
        R* const scores = workspace<Forward, R>(kTogether * kKeys * kQueries);
        const ScoreRule<R> rule{Mask(spec), static_cast<R>(alibi_slope(spec, head, NH))};
        const KeyBias<R> key_bias(t.key_bias, head, range.row);
        products.load_queries(0, {t.q, head, queries.row}, queries.count);

        alignas(64) R top[kQueries], sum[kQueries], bias[kQueries], shift[kQueries];
        const R extra = static_cast<R>(extra_logit(spec, of_head<R>(t.sink_logit, head)));
        for (int64_t i = 0; i < kQueries; ++i) {
            top[i] = extra, sum[i] = extra == -kInfinity ? R(0) : R(1), shift[i] = 0;
            bias[i] = static_cast<R>(
                row_bias<V>(spec, rule.mask, queries.position + i, range.end, of_head<R>(t.score_bias, head)));
        }
        // Scores are scaled as they are weighed, if nothing is added to them and -infinity stays what it is.
        const bool late = !key_bias.data && rule.slope == 0 && products.score_scale() > 0;
        const R factor = late ? products.score_scale() : R(1);
        const int64_t limit = rule.mask.keys_end(queries.position, queries.position + queries.count);
        for_each_strip<kTogether>(range, limit, [&](int64_t first, int64_t end) {
            const TilesOfStrip<kTogether> tiles(range, first, end, queries, rule.mask);
            products.use_strip(first);
            const auto rows_of = [&](const KeyTile& tile) { return scores + (tile.first - first) * kQueries; };
            for (const KeyTile& tile : tiles) {
                products.use_keys(tile);
                products.scores(rows_of(tile), 0, tile);
                if (!late) scale_scores(rows_of(tile), products.score_scale(), tile.count);
                key_bias.add_to(rows_of(tile), tile.first, tile.count, kQueries);
                rule.apply(rows_of(tile), queries.position, tile.position, tile.count);
            }
            if constexpr (V::kInfo.normalization == Normalization::kExp)
                rescale(products, tiles, rows_of, factor, top, sum, shift);
            for (const KeyTile& tile : tiles)
                products.template weigh<V>(rows_of(tile), tile, factor, shift, bias, kIsNormalized<V> ? sum : nullptr);
            products.add_values(scores, tiles);
        });
        const HeadRows<T> to(t.out, head, queries.row);
        for (int64_t i = 0; i < queries.count; ++i) {
            constexpr bool kExp = V::kInfo.normalization == Normalization::kExp;
            const bool empty = kExp && !(sum[i] > 0);
            const R scale = !kExp   ? weight_factor<V>(sum[i], RowState<R>{.lse = 0, .bias = bias[i]})
                            : empty ? R(0)
                                    : R(1) / sum[i];
            // First the scale, then the gate: what head_gate_forward makes of an output without a gate.
            products.unpack(to.row(i), products.out(i), VS, scale, gate_of<T>(t.gate, queries.row + i, head));
            if constexpr (kIsNormalized<V>)
                t.lse.ptr<R>()[head * t.q.shape[0] + queries.row + i] = !kExp   ? sum[i]
                                                                        : empty ? -kInfinity
                                                                                : top[i] + std::log(sum[i]);
        }
    }

    // Online softmax: raises the running maximum by a strip's scores times `scale`, and scales what was summed under
    // the old one. `shift` is what scores are compared with: the maximum, 0 where a row has seen no key.
    template <class RowsOf>
    static void rescale(Products& products, const TilesOfStrip<kTogether>& tiles, RowsOf&& rows_of, R scale, R* top,
                        R* sum, R* shift) {
        constexpr R kInfinity = std::numeric_limits<R>::infinity();
        alignas(64) R before[kQueries], factor[kQueries];
        std::copy_n(top, kQueries, before);
        for (const KeyTile& tile : tiles)
            for (int64_t j = 0; j < tile.count; ++j) {
                const R* row = rows_of(tile) + j * kQueries;
#pragma omp simd
                for (int64_t i = 0; i < kQueries; ++i) {
                    const R s = row[i] * scale;
                    top[i] = s > top[i] ? s : top[i];
                }
            }
#pragma omp simd
        for (int64_t i = 0; i < kQueries; ++i) {
            // 0 of a row that had seen no key: e^-infinity. A maximum that stays has a factor of 1, also -infinity.
            const R change = before[i] == top[i] ? R(0) : before[i] - top[i];
            shift[i] = top[i] == -kInfinity ? R(0) : top[i];
            factor[i] = exp_fast(change);
            sum[i] *= factor[i];
        }
        const bool raised = !std::equal(before, before + kQueries, top);
        if (raised) products.scale_out(factor);
    }
};

}  // namespace

void attention_tasks_forward(const AttentionTensors& t, const AttentionTasks& tasks, const AttentionSpec& spec,
                             const Exec& exec) {
    int64_t blocks = 0;
    for (const AttentionTask& task : tasks.tasks)
        blocks += (task.position % kQueries + task.count + kQueries - 1) / kQueries;
    Unit* const units = workspace<Unit, Unit>(blocks);
    Unit* next = units;
    for (const AttentionTask& task : tasks.tasks)
        for_each_block(task, [&](const QueryBlock& queries) { *next++ = {queries, task.keys}; });
    const int64_t NH = t.q.shape[1],
                  together = std::clamp<int64_t>(blocks * NH / (4 * exec.threads), 1, kUnitsTogether);
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_products(t.q.dtype, [&]<class T, class Products>() {
            const Forward<V, T, Products> forward{t, spec};
#pragma omp parallel num_threads(exec.threads)
            {
                [[maybe_unused]] const typename Products::Scope scope;
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < (blocks + together - 1) / together * NH; ++i) {
                    const int64_t begin = i / NH * together, end = std::min(blocks, begin + together);
                    forward.run({units + begin, units + end}, tasks.keys, i % NH);
                }
            }
        });
    });
}

void attention_forward(const AttentionTensors& t, std::span<const int32_t> cu_seqlens, const AttentionSpec& spec,
                       const Exec& exec) {
    cpu::attention_tasks_forward(t, tasks_of(cu_seqlens), spec, exec);
}

}  // namespace plimsoll::cpu
