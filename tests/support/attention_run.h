// One case of attention, forward and backward, in a scalar type: queries, keys and values are slices of one projection.
#pragma once

#include "support/attention_oracle.h"
#include "support/kernel_test.h"
#include "support/tolerance.h"

namespace plimsoll {

template <class T>
struct AttentionRun {
    using R = Accumulator<T>;
    AttentionCase c;
    std::vector<T> qkv, out, dout, dqkv, gate, dgate;
    std::vector<R> lse, sink, dsink, bias, dbias, key_bias, dkey_bias;
    int threads;

    explicit AttentionRun(const AttentionCase& c, int threads = 2) : c(c), threads(threads) {
        const int64_t N = c.N(), heads = c.NH + 2 * c.NKV;
        qkv = normals<T>(N * heads * c.HS, "qkv", c.spread), dout = normals<T>(N * c.NH * c.HS, "dout");
        out.resize(static_cast<size_t>(N * c.NH * c.HS)), dqkv.resize(qkv.size()),
            lse.resize(static_cast<size_t>(N * c.NH));
        if (c.extra == ExtraColumn::kLearnedLogit) sink = normals<R>(c.NH, "sink"), dsink.resize(sink.size());
        if (c.bias == ScoreBias::kLearned) bias = normals<R>(c.NH, "bias"), dbias.resize(bias.size());
        for (R& b : bias) b += static_cast<R>(c.bias_value);
        if (c.gate) gate = normals<T>(N * c.NH, "gate"), dgate.resize(gate.size());
        if (c.key_bias) key_bias = normals<R>(N * c.NH, "key_bias"), dkey_bias.resize(key_bias.size(), R(7));
        for (R& logit : sink) logit += static_cast<R>(c.sink_shift);
        if (!c.positive) return;
        for (size_t i = 0; i < qkv.size(); ++i)
            if (static_cast<int64_t>(i) / c.HS % heads < c.NH + c.NKV && static_cast<R>(qkv[i]) < 0)
                qkv[i] = T(-R(qkv[i]));
    }
    Tensor part(std::vector<T>& fused, int64_t first, int64_t heads) {
        return view(fused, {c.N(), c.NH + 2 * c.NKV, c.HS}).slice_columns(first, heads);
    }
    Tensor q(std::vector<T>& f) { return part(f, 0, c.NH); }
    Tensor k(std::vector<T>& f) { return part(f, c.NH, c.NKV); }
    Tensor v(std::vector<T>& f) { return part(f, c.NH + c.NKV, c.NKV); }
    Tensor per_head(std::vector<R>& s) { return view(s, {c.NH}); }
    // What is learned per head, if anything is: sink logits or biases.
    const std::vector<R>& learned() const { return sink.empty() ? bias : sink; }
    const std::vector<R>& dlearned() const { return sink.empty() ? dbias : dsink; }

    AttentionTensors tensors() {
        return {.out = view(out, {c.N(), c.NH, c.HS}),
                .lse = view(lse, {c.NH, c.N()}),
                .q = q(qkv),
                .k = k(qkv),
                .v = v(qkv),
                .sink_logit = per_head(sink),
                .gate = view(gate, {c.N(), c.NH}),
                .score_bias = per_head(bias),
                .key_bias = view(key_bias, {c.N(), c.NH})};
    }
    AttentionTensors gradients() {
        return {.out = view(dout, {c.N(), c.NH, c.HS}),
                .lse = {},
                .q = q(dqkv),
                .k = k(dqkv),
                .v = v(dqkv),
                .sink_logit = per_head(dsink),
                .gate = view(dgate, {c.N(), c.NH}),
                .score_bias = per_head(dbias),
                .key_bias = view(dkey_bias, {c.N(), c.NH})};
    }
    void forward() { attention_forward(tensors(), c.cu_seqlens, c.spec(), {.threads = threads}); }
    void backward(Write write = Write::kOverwrite) {
        attention_backward(gradients(), tensors(), c.cu_seqlens, c.spec(), write, {.threads = threads});
    }
    // A slice of the projection, dense, in double.
    std::vector<double> dense(int64_t first, int64_t heads) const {
        std::vector<double> values;
        const int64_t all = c.NH + 2 * c.NKV;
        for (int64_t n = 0; n < c.N(); ++n)
            for (int64_t i = first * c.HS; i < (first + heads) * c.HS; ++i)
                values.push_back(static_cast<double>(static_cast<R>(qkv[static_cast<size_t>(n * all * c.HS + i)])));
        return values;
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
        attention_oracle(c, dense(0, c.NH), dense(c.NH, c.NKV), dense(c.NH + c.NKV, c.NKV), widened(learned()),
                         widened(gate), expected, expected_lse, widened(key_bias));
    }
};

}  // namespace plimsoll
