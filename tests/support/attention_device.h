// One case of attention on a device: everything it writes, beginning as sevens and halves.
#pragma once

#include <cmath>
#include <optional>

#include "support/attention_run.h"
#include "support/cuda_test.h"

namespace plimsoll {

struct DeviceResults {
    std::vector<bf16> out, dqkv, dgate;
    std::vector<float> lse, dsink, dbias, dkey_bias;
};

// Forward of a run's inputs on the device, and backward unless nothing says how it writes.
inline DeviceResults run_on_device(const AttentionRun<bf16>& run, std::optional<Write> backward, const Exec& exec) {
    const AttentionCase& c = run.c;
    const int64_t N = c.N();
    const bool normalized = is_normalized(c.spec().weighting);
    const OnDevice<bf16> qkv(run.qkv), dout(run.dout), out(std::vector<bf16>(run.out.size(), bf16(7.0f))),
        dqkv(std::vector<bf16>(run.qkv.size(), bf16(7.0f)));
    const OnDevice<float> lse(filled<float>(normalized ? run.lse.size() : 0, 7.0f)), sink(run.sink),
        dsink(filled<float>(run.sink.size(), 0.5f)), bias(run.bias), dbias(filled<float>(run.bias.size(), 0.5f)),
        key_bias(run.key_bias), dkey_bias(filled<float>(run.key_bias.size(), 7.0f));
    const OnDevice<bf16> gate(run.gate), dgate(filled<bf16>(run.gate.size(), 7.0f));
    const OnDevice<int32_t> documents(c.cu_seqlens);
    const Shape rows{N, c.columns()}, outs{N, c.NH, c.value_size()};
    const Qkv inputs(c, qkv.tensor(rows)), gradients(c, dqkv.tensor(rows));
    const AttentionTensors t{.out = out.tensor(outs),
                             .lse = lse.tensor({c.NH, N}),
                             .q = inputs.q,
                             .k = inputs.k,
                             .v = inputs.v,
                             .sink_logit = sink.tensor({c.NH}),
                             .gate = gate.tensor({N, c.NH}),
                             .score_bias = bias.tensor({c.NH}),
                             .key_bias = key_bias.tensor({N, c.NH})};
    const AttentionTensors d{.out = dout.tensor(outs),
                             .lse = {},
                             .q = gradients.q,
                             .k = gradients.k,
                             .v = gradients.v,
                             .sink_logit = dsink.tensor({c.NH}),
                             .gate = dgate.tensor({N, c.NH}),
                             .score_bias = dbias.tensor({c.NH}),
                             .key_bias = dkey_bias.tensor({N, c.NH})};
    attention_forward(t, documents.span(), c.spec(), exec);
    if (backward) attention_backward(d, t, documents.span(), c.spec(), *backward, exec);
    exec.cuda->synchronize();
    return {out.values(),   dqkv.values(),  dgate.values(),    lse.values(),
            dsink.values(), dbias.values(), dkey_bias.values()};
}

// Size of the terms of dsink_logit_h = -sum_i exp(sink_logit_h - lse_i) sum_c dout_ic out_ic, which have both signs, as
// if they were independent: what the rounding of each output leaves in the sum is of that order.
inline double sink_terms(const AttentionRun<double>& run) {
    const AttentionCase& c = run.c;
    double square = 0;
    for (size_t h = 0; h < run.sink.size(); ++h)
        for (size_t i = 0; i < static_cast<size_t>(c.N()); ++i)
            for (size_t x = 0; x < static_cast<size_t>(c.value_size()); ++x) {
                const size_t at = (i * run.sink.size() + h) * static_cast<size_t>(c.value_size()) + x;
                const double weight = std::exp(run.sink[h] - run.lse[h * static_cast<size_t>(c.N()) + i]);
                square += std::pow(weight * run.dout[at] * run.out[at], 2);
            }
    return std::sqrt(square);
}

// Bit for bit.
inline bool same_results(const DeviceResults& a, const DeviceResults& b) {
    return same_bits(a.out, b.out) && same_bits(a.dqkv, b.dqkv) && same_bits(a.dgate, b.dgate) &&
           same_bits(a.lse, b.lse) && same_bits(a.dsink, b.dsink) && same_bits(a.dbias, b.dbias) &&
           same_bits(a.dkey_bias, b.dkey_bias);
}

}  // namespace plimsoll
