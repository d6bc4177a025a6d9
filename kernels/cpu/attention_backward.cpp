#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {
namespace {

// Buffers of one thread: one document's keys and values of one key head with their gradients, and one block of queries.
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
    Tensor dq, dk, dv, dgate, dout, out, lse, q, k, v, sink_logit, gate;
    R* dsink;  // (documents, NH), for a learned extra column
    std::span<const int32_t> cu_seqlens;
    const AttentionSpec& spec;

    // One key head of one document: its query heads and their blocks of queries in ascending order.
    void unit(int64_t document, int64_t kv_head) const {
        const int64_t begin = cu_seqlens[static_cast<size_t>(document)],
                      n = cu_seqlens[static_cast<size_t>(document) + 1] - begin;
        const int64_t NH = q.shape[1], group = NH / k.shape[1], HS = q.shape[2], W = round_up(HS, kPanel);
        const int64_t padded = round_up(n, kRows);
        const BackwardTile<R> tile(padded, HS, W);
        pack_rows(tile.keys, HeadRows<T>(k, kv_head, begin), 0, n, padded, HS, W, R(1));
        pack_rows(tile.values, HeadRows<T>(v, kv_head, begin), 0, n, padded, HS, W, R(1));
        std::fill_n(tile.dkeys, padded * W, R(0));
        std::fill_n(tile.dvalues, padded * W, R(0));
        for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            R dsink_sum = 0;
            for (int64_t i0 = 0; i0 < n; i0 += kQueries) dsink_sum += block(tile, document, head, i0, W);
            if (dsink) dsink[document * NH + head] = dsink_sum;
        }
        const HeadRows<T> dkeys(dk, kv_head, begin), dvalues(dv, kv_head, begin);
        for (int64_t j = 0; j < n; ++j) {
            unpack_row(dkeys.row(j), tile.dkeys + j * W, HS, R(1));  // queries were packed with the scale
            unpack_row(dvalues.row(j), tile.dvalues + j * W, HS, R(1));
        }
    }

  private:
    // Adds one block of queries to dkeys and dvalues, writes its dq. Returns its part of the extra column's gradient.
    R block(const BackwardTile<R>& tile, int64_t document, int64_t head, int64_t i0, int64_t W) const {
        const int64_t begin = cu_seqlens[static_cast<size_t>(document)],
                      n = cu_seqlens[static_cast<size_t>(document) + 1] - begin;
        const int64_t NH = q.shape[1], HS = q.shape[2], count = std::min(kQueries, n - i0);
        const ScoreRule<R> rule{Mask(spec), static_cast<R>(alibi_slope(spec, head, NH))};
        pack_rows(tile.query_rows, HeadRows<T>(q, head, begin), i0, count, kQueries, HS, W, static_cast<R>(spec.scale));
        pack_rows(tile.dout_rows, HeadRows<T>(dout, head, begin), i0, count, kQueries, HS, W, R(1));
        transpose_rows(tile.queries, tile.query_rows, HS, W);
        std::fill_n(tile.dqueries, kQueries * W, R(0));

        alignas(64) R row_lse[kQueries] = {}, bias[kQueries], delta[kQueries] = {};
        for (int64_t i = 0; i < kQueries; ++i) bias[i] = static_cast<R>(score_bias(spec, rule.mask, i0 + i));
        if (V::kInfo.normalized || gate) deltas(tile, delta, head, begin + i0, count, HS, W);
        const R dsink_part = V::kInfo.normalized ? row_states(row_lse, delta, head, begin + i0, count) : R(0);
        transpose_rows(tile.douts, tile.dout_rows, HS, W);

        for (int64_t j0 = 0; j0 < std::min(n, i0 + count); j0 += kKeys) {
            const int64_t here = std::min(kKeys, n - j0), rows = round_up(here, kRows);
            if (rule.mask.skips(i0, i0 + count, j0, j0 + here)) continue;
            std::fill_n(tile.weights, rows * kQueries, R(0));
            std::fill_n(tile.dscores, rows * kQueries, R(0));
            tile_gemm(tile.weights, kQueries, tile.keys + j0 * W, W, 1, tile.queries, kQueries, rows, kQueries, HS);
            rule.apply(tile.weights, i0, j0, rows);
            for (int64_t j = 0; j < rows; ++j)
                weigh_row<V>(tile.weights + j * kQueries, tile.weights + j * kQueries, row_lse, bias);
            tile_gemm(tile.dscores, kQueries, tile.values + j0 * W, W, 1, tile.douts, kQueries, rows, kQueries, HS);
            tile_gemm(tile.dvalues + j0 * W, W, tile.weights, kQueries, 1, tile.dout_rows, W, rows, W, kQueries);
            for (int64_t j = 0; j < rows; ++j) {
                R* ds = tile.dscores + j * kQueries;
                const R* p = tile.weights + j * kQueries;
#pragma omp simd
                for (int64_t i = 0; i < kQueries; ++i)
                    ds[i] = V::dscore(p[i], ds[i], delta[i], RowState<R>{.lse = row_lse[i], .bias = bias[i]});
            }
            tile_gemm(tile.dkeys + j0 * W, W, tile.dscores, kQueries, 1, tile.query_rows, W, rows, W, kQueries);
            tile_gemm(tile.dqueries, W, tile.dscores, 1, kQueries, tile.keys + j0 * W, W, kQueries, W, here);
        }
        const HeadRows<T> to(dq, head, begin);
        for (int64_t i = 0; i < count; ++i)
            unpack_row(to.row(i0 + i), tile.dqueries + i * W, HS, static_cast<R>(spec.scale));
        return dsink_part;
    }

    // delta = rowsum(dout * out) of a block's queries; with a gate also its gradient, and dout_rows times the gate.
    void deltas(const BackwardTile<R>& tile, R* delta, int64_t head, int64_t token, int64_t count, int64_t HS,
                int64_t W) const {
        const HeadRows<T> rows(out, head, token);
        for (int64_t i = 0; i < count; ++i) {
            const T* y = rows.row(i);
            R* d = tile.dout_rows + i * W;
            delta[i] = lane_sum<R>(HS, [&](int64_t c) { return d[c] * static_cast<R>(y[c]); });
            if (!gate) continue;
            const R g = gate_of<T>(gate, token + i, head);
            dgate.ptr<T>()[(token + i) * q.shape[1] + head] = static_cast<T>(delta[i] * (R(1) - g));
            for (int64_t c = 0; c < HS; ++c) d[c] *= g;
        }
    }

    // lse of a block's queries: 0 for rows that saw nothing, whose weights are masked.
    R row_states(R* row_lse, const R* delta, int64_t head, int64_t token, int64_t count) const {
        const R* saved = lse.ptr<R>() + head * q.shape[0] + token;
        R dsink_part = 0;
        for (int64_t i = 0; i < count; ++i) {
            const bool seen = saved[i] != -std::numeric_limits<R>::infinity();
            row_lse[i] = seen ? saved[i] : R(0);
            if (dsink && seen) dsink_part -= std::exp(sink_logit.ptr<R>()[head] - saved[i]) * delta[i];
        }
        return dsink_part;
    }
};

}  // namespace

void attention_backward(const AttentionTensors& d, const AttentionTensors& t, std::span<const int32_t> cu_seqlens,
                        const AttentionSpec& spec, Write write, const Exec& exec) {
    const int64_t NH = t.q.shape[1], NKV = t.k.shape[1], documents = static_cast<int64_t>(cu_seqlens.size()) - 1;
    dispatch_variant(spec.weighting, [&]<class V>() {
        dispatch_float(t.q.dtype, [&]<class T>() {
            using R = Accumulator<T>;
            R* dsink = d.sink_logit ? workspace<struct SinkParts, R>(documents * NH) : nullptr;
            const Backward<V, T> backward{d.q, d.k, d.v,          d.gate, d.out, t.out,      t.lse, t.q,
                                          t.k, t.v, t.sink_logit, t.gate, dsink, cu_seqlens, spec};
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
            for (int64_t unit = 0; unit < documents * NKV; ++unit) backward.unit(unit / NKV, unit % NKV);
            if (!dsink) return;
            for (int64_t head = 0; head < NH; ++head) {
                R total = 0;
                for (int64_t i = 0; i < documents; ++i) total += dsink[i * NH + head];
                R& to = d.sink_logit.ptr<R>()[head];
                to = (write == Write::kAccumulate ? to : R(0)) + total;
            }
        });
    });
}

}  // namespace plimsoll::cpu
