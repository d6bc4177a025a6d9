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
    std::vector<R> lse, sink, dsink;
    int threads;

    explicit AttentionRun(const AttentionCase& c, int threads = 2) : c(c), threads(threads) {
        const int64_t N = c.N(), heads = c.NH + 2 * c.NKV;
        qkv = normals<T>(N * heads * c.HS, "qkv", c.spread), dout = normals<T>(N * c.NH * c.HS, "dout");
        out.resize(static_cast<size_t>(N * c.NH * c.HS)), dqkv.resize(qkv.size()),
            lse.resize(static_cast<size_t>(N * c.NH));
        if (c.extra == ExtraColumn::kLearnedLogit) sink = normals<R>(c.NH, "sink"), dsink.resize(sink.size());
        if (c.gate) gate = normals<T>(N * c.NH, "gate"), dgate.resize(gate.size());
        for (R& logit : sink) logit += static_cast<R>(c.sink_shift);
    }
    Tensor part(std::vector<T>& fused, int64_t first, int64_t heads) {
        return view(fused, {c.N(), c.NH + 2 * c.NKV, c.HS}).slice_columns(first, heads);
    }
    Tensor q(std::vector<T>& f) { return part(f, 0, c.NH); }
    Tensor k(std::vector<T>& f) { return part(f, c.NH, c.NKV); }
    Tensor v(std::vector<T>& f) { return part(f, c.NH + c.NKV, c.NKV); }
    Tensor sink_view(std::vector<R>& s) { return view(s, {c.NH}); }

    AttentionTensors tensors() {
        return {.out = view(out, {c.N(), c.NH, c.HS}),
                .lse = view(lse, {c.NH, c.N()}),
                .q = q(qkv),
                .k = k(qkv),
                .v = v(qkv),
                .sink_logit = sink_view(sink),
                .gate = view(gate, {c.N(), c.NH})};
    }
    AttentionTensors gradients() {
        return {.out = view(dout, {c.N(), c.NH, c.HS}),
                .lse = {},
                .q = q(dqkv),
                .k = k(dqkv),
                .v = v(dqkv),
                .sink_logit = sink_view(dsink),
                .gate = view(dgate, {c.N(), c.NH})};
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
    // The oracle on this run's (rounded) inputs.
    void oracle(std::vector<double>& expected, std::vector<double>& expected_lse) const {
        attention_oracle(c, dense(0, c.NH), dense(c.NH, c.NKV), dense(c.NH + c.NKV, c.NKV), widened(sink),
                         widened(gate), expected, expected_lse);
    }
};

}  // namespace plimsoll
