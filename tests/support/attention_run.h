// One case of attention, forward and backward, in a scalar type: queries, keys and values are slices of one projection.
#pragma once

#include "support/attention_oracle.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {

// Heads of `width` channels in the columns of rows (N, columns) from `first` on.
inline Tensor heads_at(Tensor rows, int64_t first, int64_t heads, int64_t width) {
    Tensor part = rows.slice_columns(first, heads * width);
    part.shape = {rows.shape[0], heads, width};
    return part;
}

// The queries, keys and values of rows (N, columns) of a case.
struct Qkv {
    Tensor q, k, v;
    Qkv(const AttentionCase& c, Tensor rows)
        : q(heads_at(rows, 0, c.NH, c.HS)),
          k(heads_at(rows, c.query_columns(), c.NKV, c.HS)),
          v(heads_at(rows, c.query_columns() + c.key_columns(), c.NKV, c.value_size())) {}
};

// They as separate matrices, (tokens, heads, channels) each, in a scalar type.
template <class T>
struct DenseQkv {
    std::vector<T> q, k, v;
    explicit DenseQkv(const AttentionCase& c, const std::vector<T>& qkv) {
        for (size_t i = 0; i < qkv.size(); ++i) {
            const int64_t column = static_cast<int64_t>(i) % c.columns();
            (column < c.query_columns() ? q : column < c.query_columns() + c.key_columns() ? k : v).push_back(qkv[i]);
        }
    }
};

template <class T>
struct AttentionRun {
    using R = Accumulator<T>;
    AttentionCase c;
    std::vector<T> qkv, out, dout, dqkv, gate, dgate;
    std::vector<R> lse, sink, dsink, bias, dbias, key_bias, dkey_bias;
    int threads;

    explicit AttentionRun(const AttentionCase& c, int threads = 2) : c(c), threads(threads) {
        const int64_t N = c.N();
        qkv = normals<T>(N * c.columns(), "qkv", c.spread), dout = normals<T>(N * c.out_columns(), "dout");
        out.resize(dout.size()), dqkv.resize(qkv.size()), lse.resize(static_cast<size_t>(N * c.NH));
        if (c.extra == ExtraColumn::kLearnedLogit) sink = normals<R>(c.NH, "sink"), dsink.resize(sink.size());
        if (c.bias == ScoreBias::kLearned) bias = normals<R>(c.NH, "bias"), dbias.resize(bias.size());
        for (R& b : bias) b += static_cast<R>(c.bias_value);
        if (c.gate) gate = normals<T>(N * c.NH, "gate"), dgate.resize(gate.size());
        if (c.key_bias) key_bias = normals<R>(N * c.NH, "key_bias"), dkey_bias.resize(key_bias.size(), R(7));
        for (R& logit : sink) logit += static_cast<R>(c.sink_shift);
        if (!c.positive) return;
        for (size_t i = 0; i < qkv.size(); ++i)
            if (static_cast<int64_t>(i) % c.columns() < c.query_columns() + c.key_columns() &&
                static_cast<R>(qkv[i]) < 0)
                qkv[i] = T(-R(qkv[i]));
    }
    Qkv parts(std::vector<T>& fused) { return {c, view(fused, {c.N(), c.columns()})}; }
    Tensor per_head(std::vector<R>& s) { return view(s, {c.NH}); }
    // What is learned per head, if anything is: sink logits or biases.
    const std::vector<R>& learned() const { return sink.empty() ? bias : sink; }
    const std::vector<R>& dlearned() const { return sink.empty() ? dbias : dsink; }

    AttentionTensors tensors() {
        const auto [q, k, v] = parts(qkv);
        return {.out = view(out, {c.N(), c.NH, c.value_size()}),
                .lse = view(lse, {c.NH, c.N()}),
                .q = q,
                .k = k,
                .v = v,
                .sink_logit = per_head(sink),
                .gate = view(gate, {c.N(), c.NH}),
                .score_bias = per_head(bias),
                .key_bias = view(key_bias, {c.N(), c.NH})};
    }
    AttentionTensors gradients() {
        const auto [q, k, v] = parts(dqkv);
        return {.out = view(dout, {c.N(), c.NH, c.value_size()}),
                .lse = {},
                .q = q,
                .k = k,
                .v = v,
                .sink_logit = per_head(dsink),
                .gate = view(dgate, {c.N(), c.NH}),
                .score_bias = per_head(dbias),
                .key_bias = view(dkey_bias, {c.N(), c.NH})};
    }
    void forward() { attention_forward(tensors(), c.cu_seqlens, c.spec(), {.threads = threads}); }
    void backward(Write write = Write::kOverwrite) {
        attention_backward(gradients(), tensors(), c.cu_seqlens, c.spec(), write, {.threads = threads});
    }
    // The same case in double, on this run's rounded inputs.
    AttentionRun<double> widened_run() const {
        AttentionRun<double> exact(c);
        exact.qkv = widened(qkv), exact.dout = widened(dout), exact.gate = widened(gate);
        exact.sink = widened(sink), exact.bias = widened(bias), exact.key_bias = widened(key_bias);
        return exact;
    }
    // The oracle on this run's (rounded) inputs.
    void oracle(std::vector<double>& expected, std::vector<double>& expected_lse) const {
        const DenseQkv<double> dense(c, widened(qkv));
        attention_oracle(c, dense.q, dense.k, dense.v, widened(learned()), widened(gate), expected, expected_lse,
                         widened(key_bias));
    }
};

}  // namespace plimsoll
