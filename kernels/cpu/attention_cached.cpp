#include "kernels/attention_cached.h"

#include <algorithm>
#include <bit>

#include "kernels/attention/row.h"
#include "kernels/attention/variants.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rotations.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

// Partial sums of a dot product: one vector register.
template <class R>
inline constexpr int64_t kDotLanes = 64 / static_cast<int64_t>(sizeof(R));

// Calls f(run) for the parts of the query's keys that the mask shows, in ascending order.
template <class F>
void for_each_visible(const CachedQuery& query, const Mask& mask, F&& f) {
    const KeysOfQuery<int64_t> seen = mask.keys_of(query.position, query.position + 1);
    for (const KeyRun& run : query.runs) {
        const auto part = [&](int64_t from, int64_t to) {
            from = std::max(from, run.position), to = std::min(to, run.position + run.count);
            if (from < to) f(KeyRun{run.row + from - run.position, from, to - from});
        };
        part(0, seen.pinned);
        const int64_t from = std::max({seen.sparse, seen.pinned, run.position});
        const int64_t to = std::min(seen.dense, run.position + run.count);
        for (int64_t j = from + (query.position - from) % mask.step; j < to; j += mask.step) part(j, j + 1);
        part(seen.dense, seen.end);
    }
}

template <class V, class T>
class CachedForward {
    using R = Accumulator<T>;

  public:
    const AttentionTensors& t;
    const AttentionSpec& spec;
    const R* rotation;  // rows of cos, sin by position; null: keys are read as they are

    void head(const CachedQuery& query, int64_t row, int64_t h) const {
        constexpr R kInfinity = std::numeric_limits<R>::infinity();
        const int64_t NH = t.q.shape[1], HS = t.q.shape[2], VS = t.v.shape[2], kv_head = h / (NH / t.k.shape[1]);
        const Mask mask(spec);
        int64_t visible = 0;
        for_each_visible(query, mask, [&](const KeyRun& run) { visible += run.count; });
        // Grown by doubling: a cache fills by one key at a time.
        const auto room = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(visible)));
        R* const scores = workspace<CachedForward, R>(room + HS + VS);
        R *const q = scores + room, *const out = q + HS;
        load_query(q, t.q.ptr<T>() + row * t.q.row_stride + h * HS, query.position, HS);

        const R slope = static_cast<R>(alibi_slope(spec, h, NH));
        const R extra =
            static_cast<R>(extra_logit(spec, t.sink_logit ? static_cast<double>(t.sink_logit.ptr<R>()[h]) : 0));
        R top = extra;
        R* next = scores;
        for_each_visible(query, mask, [&](const KeyRun& run) {
            const T* key = t.k.ptr<T>() + run.row * t.k.row_stride + kv_head * HS;
            for (int64_t j = 0; j < run.count; ++j, key += t.k.row_stride, ++next) {
                const R distance = static_cast<R>(query.position - (run.position + j));
                const R b = t.key_bias ? t.key_bias.ptr<R>()[(run.row + j) * NH + h] : R(0);
                *next = dot(q, key, run.position + j, HS) + b - slope * distance;
                top = *next > top ? *next : top;
            }
        });

        const R shift = top == -kInfinity ? R(0) : top;
        const double learned = t.score_bias ? static_cast<double>(t.score_bias.ptr<R>()[h]) : 0;
        const RowState<R> state{
            .lse = shift, .bias = static_cast<R>(row_bias<V>(spec, mask, query.position, query.position + 1, learned))};
#pragma omp simd
        for (int64_t j = 0; j < visible; ++j) scores[j] = V::weight(scores[j], state);
        R sum = 0;
        if constexpr (kIsNormalized<V>)
            sum = (extra == -kInfinity ? R(0) : exp_fast(extra - shift)) +
                  lane_sum<R>(visible, [&](int64_t j) { return scores[j]; });
        R scale = weight_factor<V>(sum, state), statistic = sum;
        if constexpr (V::kInfo.normalization == Normalization::kExp) {
            scale = sum > 0 ? 1 / sum : R(0);
            statistic = sum > 0 ? top + std::log(sum) : -kInfinity;
        }
        if constexpr (kIsNormalized<V>) t.lse.ptr<R>()[h * t.q.shape[0] + row] = statistic;

        std::fill_n(out, VS, R(0));
        const R* weight = scores;
        for_each_visible(query, mask, [&](const KeyRun& run) {
            add_values(out, weight, t.v.ptr<T>() + run.row * t.v.row_stride + kv_head * VS, run.count, VS);
            weight += run.count;
        });
        const R gate = t.gate ? sigmoid_fast(static_cast<R>(t.gate.ptr<T>()[row * NH + h])) : R(1);
        T* to = t.out.ptr<T>() + row * t.out.row_stride + h * VS;
#pragma omp simd
        for (int64_t c = 0; c < VS; ++c) store(to[c], out[c] * scale * gate);
    }

  private:
    // q = the query, scaled, and rotated if keys are.
    void load_query(R* q, const T* from, int64_t position, int64_t HS) const {
        const R scale = static_cast<R>(spec.scale);
        if (!rotation) {
#pragma omp simd
            for (int64_t c = 0; c < HS; ++c) q[c] = static_cast<R>(from[c]) * scale;
            return;
        }
        const int64_t half = HS / 2;
        const R *cosines = rotation + position * HS, *sines = cosines + half;
#pragma omp simd
        for (int64_t c = 0; c < half; ++c) {
            const R a = static_cast<R>(from[c]) * scale, b = static_cast<R>(from[c + half]) * scale;
            q[c] = a * cosines[c] - b * sines[c];
            q[c + half] = a * sines[c] + b * cosines[c];
        }
    }

    // q . key, with the key rotated first: that is cos (q1 k1 + q2 k2) + sin (q2 k1 - q1 k2), pair by pair.
    R dot(const R* q, const T* key, int64_t position, int64_t HS) const {
        if (!rotation) return lane_sum<R, kDotLanes<R>>(HS, [&](int64_t c) { return q[c] * static_cast<R>(key[c]); });
        const int64_t half = HS / 2;
        const R *cosines = rotation + position * HS, *sines = cosines + half;
        return lane_sum<R, kDotLanes<R>>(half, [&](int64_t c) {
            const R a = static_cast<R>(key[c]), b = static_cast<R>(key[c + half]);
            return cosines[c] * (q[c] * a + q[c + half] * b) + sines[c] * (q[c + half] * a - q[c] * b);
        });
    }

    // out += sum_j weight_j value_j, four values at a time: out is read and written a quarter as often.
    void add_values(R* out, const R* weight, const T* value, int64_t count, int64_t VS) const {
        const int64_t stride = t.v.row_stride;
        int64_t j = 0;
        for (; j + 4 <= count; j += 4, value += 4 * stride) {
            const R w0 = weight[j], w1 = weight[j + 1], w2 = weight[j + 2], w3 = weight[j + 3];
            const T *v0 = value, *v1 = v0 + stride, *v2 = v1 + stride, *v3 = v2 + stride;
#pragma omp simd
            for (int64_t c = 0; c < VS; ++c)
                out[c] += (w0 * static_cast<R>(v0[c]) + w1 * static_cast<R>(v1[c])) +
                          (w2 * static_cast<R>(v2[c]) + w3 * static_cast<R>(v3[c]));
        }
        for (; j < count; ++j, value += stride) {
#pragma omp simd
            for (int64_t c = 0; c < VS; ++c) out[c] += weight[j] * static_cast<R>(value[c]);
        }
    }
};

}  // namespace

void attention_cached_forward(const AttentionTensors& t, std::span<const CachedQuery> queries,
                              std::span<const double> frequencies, const AttentionSpec& spec, const Exec& exec) {
    const int64_t NH = t.q.shape[1], HS = t.q.shape[2];
    int64_t last = 0, keys = 0;
    for (const CachedQuery& query : queries) {
        last = std::max(last, query.position);
        for (const KeyRun& run : query.runs) keys += run.count;
    }
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_float(t.q.dtype, [&]<class T>() {
            using R = Accumulator<T>;
            const CachedForward<V, T> forward{t, spec,
                                              frequencies.empty() ? nullptr : rotations<R>(last + 1, frequencies)};
            const auto units = static_cast<int64_t>(queries.size()) * NH;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(keys * NH * HS))
            for (int64_t unit = 0; unit < units; ++unit)
                forward.head(queries[static_cast<size_t>(unit / NH)], unit / NH, unit % NH);
        });
    });
}

}  // namespace plimsoll::cpu
