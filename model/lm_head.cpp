#include "model/lm_head.h"

#include <algorithm>
#include <array>

#include "kernels/global_norm.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/norm.h"
#include "kernels/residual.h"

namespace plimsoll {

LmHead::LmHead(ArenaPlan& activations, ArenaPlan& scratch, const NetworkConfig& config, int64_t N, Precision precision)
    : model_(config.model), z_loss_(config.loss.z_loss), vocab_(config.total_vocab()), precision_(precision) {
    const int64_t C = model_.channels;
    const DType compute = precision.compute, stream = precision.stream();
    const auto keep = [&](const char* name, Shape shape, DType dtype) {
        return activations.add(fmt::format("head.{}", name), shape, dtype);
    };
    normed_ = keep("normed", {N, C}, compute);
    if (model_.norm == "layer") mean_ = keep("mean", {N}, stream);
    rstd_ = keep("rstd", {N}, stream);
    max_ = keep("max", {N}, stream);
    sum_ = keep("sum", {N}, stream);
    target_logit_ = keep("target_logit", {N}, stream);
    nll_ = keep("nll", {N}, stream);
    lse_ = keep("lse", {N}, stream);

    const int64_t row_bytes = N * size_of(stream);
    const int64_t limit = config.loss.logits_mib ? config.loss.logits_mib : LossConfig::kUsualLogitsMib;
    const int64_t columns = std::clamp((limit << 20) / row_bytes, std::min<int64_t>(vocab_, 64), vocab_);
    buffer_bytes_ = columns * row_bytes;
    logits_ = scratch.add("head.logits", {columns, N}, stream);
    dnormed_ = scratch.add("head.dnormed", {N, C}, compute);
    if (chunk_columns(N, compute) < vocab_ && compute != stream)
        dnormed_sum_ = scratch.add("head.dnormed_sum", {N, C}, stream);
}

LmHeadTensors LmHead::view(const Arena& activations, const Arena& scratch, int64_t n) const {
    const auto rows = [&](ArenaSlot slot) { return first_rows(activations[slot], n); };
    LmHeadTensors t;
    t.normed = rows(normed_), t.mean = rows(mean_), t.rstd = rows(rstd_), t.nll = rows(nll_), t.lse = rows(lse_);
    t.state = {.max = rows(max_), .sum = rows(sum_), .target_logit = rows(target_logit_)};
    t.dnormed = first_rows(scratch[dnormed_], n), t.dnormed_sum = first_rows(scratch[dnormed_sum_], n);
    t.logits = scratch[logits_];
    return t;
}

// As many columns as the buffer holds, in equal chunks.
int64_t LmHead::chunk_columns(int64_t n, DType dtype) const {
    const int64_t most = std::min(vocab_, buffer_bytes_ / (n * size_of(dtype)));
    const int64_t chunks = (vocab_ + most - 1) / most;
    return (vocab_ + chunks - 1) / chunks;
}

Tensor LmHead::logits_chunk(const LmHeadTensors& t, int64_t v0, int64_t columns, DType dtype, const Exec& exec) const {
    const Tensor logits(t.logits.data, dtype, {t.normed.shape[0], columns}, t.logits.device);
    matmul_forward(logits, t.normed, t.weight.slice_rows(v0, columns), {}, exec);
    return logits;
}

void LmHead::forward(const LmHeadTensors& t, std::span<const int32_t> targets, DType logits_dtype, Write write,
                     const Exec& exec) const {
    const int64_t n = t.x.shape[0], step = chunk_columns(n, logits_dtype);
    norm_forward(t.normed, t.mean, t.rstd, t.x, t.norm_gain, t.norm_bias, model_.norm_spec(), exec);
    cross_entropy_begin(t.state, exec);
    for (int64_t v0 = 0; v0 < vocab_; v0 += step) {
        const Tensor logits = logits_chunk(t, v0, std::min(step, vocab_ - v0), logits_dtype, exec);
        cross_entropy_accumulate(t.state, logits, v0, targets, exec);
    }
    cross_entropy_finish(t.nll, t.lse, t.state, targets, exec);
    cross_entropy_sums(t.sums, t.nll, t.lse, targets, write, exec);
}

void LmHead::training_forward(const LmHeadTensors& t, std::span<const int32_t> targets, double scale, Write write,
                              const Exec& exec) const {
    if (chunk_columns(t.x.shape[0], precision_.compute) < vocab_)
        return forward(t, targets, precision_.compute, write, exec);
    norm_forward(t.normed, t.mean, t.rstd, t.x, t.norm_gain, t.norm_bias, model_.norm_spec(), exec);
    const Tensor logits = logits_chunk(t, 0, vocab_, precision_.compute, exec);
    cross_entropy_whole(t.nll, t.lse, logits, t.state, targets, scale, z_loss_, exec);
    cross_entropy_sums(t.sums, t.nll, t.lse, targets, write, exec);
}

LossSums LmHead::loss(const LmHeadTensors& t, const Exec& exec) const {
    std::array<double, 3> sums{};
    copy_tensor(Tensor(sums.data(), DType::kF64, {3}), t.sums, exec);
    return {.nll = sums[0], .z = z_loss_ * sums[1], .scored = static_cast<int64_t>(sums[2])};
}

void LmHead::backward(Tensor dx, Tensor dbranch, const LmHeadTensors& t, std::span<const int32_t> targets, double scale,
                      Write write, const Exec& exec) const {
    const int64_t n = t.x.shape[0], step = chunk_columns(n, precision_.compute);
    const bool one_chunk = step == vocab_;
    const Tensor sum = one_chunk || !t.dnormed_sum ? t.dnormed : t.dnormed_sum;
    for (int64_t v0 = 0; v0 < vocab_; v0 += step) {
        const int64_t columns = std::min(step, vocab_ - v0);
        const Tensor dlogits = one_chunk ? Tensor(t.logits.data, precision_.compute, {n, columns}, t.logits.device)
                                         : logits_chunk(t, v0, columns, precision_.compute, exec);
        if (!one_chunk) cross_entropy_gradient(dlogits, v0, t.lse, targets, scale, z_loss_, exec);
        matmul_backward_weight(t.dweight.slice_rows(v0, columns), {}, dlogits, t.normed, write, exec,
                               one_chunk ? t.squares : Tensor{});
        matmul_backward_input(sum, dlogits, t.weight.slice_rows(v0, columns),
                              v0 ? Write::kAccumulate : Write::kOverwrite, exec);
    }
    if (t.squares && !one_chunk) block_squares(t.squares, t.dweight, exec);
    if (sum.data != t.dnormed.data) convert(t.dnormed, sum, exec);
    stream_norm_backward(dx, dbranch, t.dnorm_gain, t.dnorm_bias, t.dnormed, t.x, t.norm_gain, t.mean, t.rstd,
                         model_.norm_spec(), Write::kOverwrite, write, exec);
}

Tensor LmHead::logits(const LmHeadTensors& t, const Exec& exec) const {
    const int64_t n = t.x.shape[0];
    check(chunk_columns(n, precision_.stream()) == vocab_, "{} x {} logits do not fit loss.logits_mib", n, vocab_);
    return logits_chunk(t, 0, vocab_, precision_.stream(), exec);
}

}  // namespace plimsoll
