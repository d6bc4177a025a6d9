#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/cpu/avx512_bf16/cross_entropy_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// Columns whose maximum is taken before their exponentials are summed: few enough to stay in the first-level cache.
constexpr int64_t kBlock = 1024;

// The largest logit of a row and the sum of exponentials, after n more logits.
template <class T, class R>
void add_logits(R* max, R* sum, const T* logits, int64_t n) {
    constexpr R kInfinity = std::numeric_limits<R>::infinity();
    if constexpr (!std::is_same_v<T, double>) {
        if (avx512_bf16::available()) return avx512_bf16::add_logits(max, sum, logits, n);
    }
    for (int64_t begin = 0; begin < n; begin += kBlock) {
        const T* block = logits + begin;
        const int64_t count = std::min(kBlock, n - begin);
        const R above = lane_max<R>(count, *max, [&](int64_t c) { return static_cast<R>(block[c]); });
        const R shift = above == -kInfinity ? R(0) : above;  // a row of -inf so far: exp(-inf - 0) = 0, a NaN shows
        const R added = lane_sum<R>(count, [&](int64_t c) { return exp_fast(static_cast<R>(block[c]) - shift); });
        *sum = (*max == above ? *sum : *sum * exp_fast(*max - shift)) + added;
        *max = above;
    }
}

// Every logit of a row becomes exp(logit - lse) factor.
template <class T, class R>
void softmax_gradient(T* logits, int64_t n, R lse, R factor) {
    if constexpr (!std::is_same_v<T, double>) {
        if (avx512_bf16::available()) return avx512_bf16::softmax_gradient(logits, n, lse, factor);
    }
    for_blocks_ahead(
        n,
        [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t c = begin; c < end; ++c) store(logits[c], exp_fast(static_cast<R>(logits[c]) - lse) * factor);
        },
        logits);
}

template <class T>
void accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0, std::span<const int32_t> targets,
                int threads) {
    using R = Accumulator<T>;
    const int64_t N = logits.shape[0], Vc = logits.shape[1];
    const T* data = logits.ptr<T>();
    R *maxima = state.max.ptr<R>(), *sums = state.sum.ptr<R>(), *target_logits = state.target_logit.ptr<R>();
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * Vc))
    for (int64_t n = 0; n < N; ++n) {
        const T* row = data + n * logits.row_stride;
        R max = maxima[n], sum = sums[n];
        add_logits(&max, &sum, row, Vc);
        maxima[n] = max, sums[n] = sum;
        const int64_t target = targets[static_cast<size_t>(n)] - v0;
        if (target >= 0 && target < Vc) target_logits[n] = static_cast<R>(row[target]);
    }
}

template <class T>
void gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale, double z_loss,
              int threads) {
    using R = Accumulator<T>;
    const int64_t N = logits.shape[0], Vc = logits.shape[1];
    T* data = logits.ptr<T>();
    const R* lses = lse.ptr<R>();
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * Vc))
    for (int64_t n = 0; n < N; ++n) {
        T* row = data + n * logits.row_stride;
        if (targets[static_cast<size_t>(n)] < 0) {
            std::fill_n(row, Vc, T{});
            continue;
        }
        const R row_lse = lses[n];
        const R factor = static_cast<R>(scale * (1 + 2 * z_loss * static_cast<double>(row_lse)));
        const int64_t target = targets[static_cast<size_t>(n)] - v0;
        const bool here = target >= 0 && target < Vc;
        // Taken before the row is overwritten, and rounded once.
        const R at_target =
            here ? exp_fast(static_cast<R>(row[target]) - row_lse) * factor - static_cast<R>(scale) : R(0);
        softmax_gradient(row, Vc, row_lse, factor);
        if (here) store(row[target], at_target);
    }
}

template <class R>
void begin(const CrossEntropyState& state) {
    std::ranges::fill(state.max.span<R>(), -std::numeric_limits<R>::infinity());
    std::ranges::fill(state.sum.span<R>(), R(0));
    // A scored row whose target's chunk is never seen must not look like a loss.
    std::ranges::fill(state.target_logit.span<R>(), std::numeric_limits<R>::quiet_NaN());
}

template <class R>
void finish(std::span<R> nll, std::span<R> lse, const CrossEntropyState& state, std::span<const int32_t> targets) {
    const std::span<R> max = state.max.span<R>(), sum = state.sum.span<R>(),
                       target_logit = state.target_logit.span<R>();
    for (size_t n = 0; n < nll.size(); ++n) {
        const R log_sum = std::log(sum[n]);
        lse[n] = max[n] + log_sum;
        // Not lse - target_logit: rounding lse would cost digits where logits are large.
        nll[n] = targets[n] < 0 ? R(0) : (max[n] - target_logit[n]) + log_sum;
    }
}

}  // namespace

void cross_entropy_begin(const CrossEntropyState& state, const Exec& /*exec: N elements do not repay threads*/) {
    state.max.dtype == DType::kF64 ? begin<double>(state) : begin<float>(state);
}

void cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0,
                              std::span<const int32_t> targets, const Exec& exec) {
    dispatch_float(logits.dtype, [&]<class T>() { accumulate<T>(state, logits, v0, targets, exec.threads); });
}

void cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, std::span<const int32_t> targets,
                          const Exec& /*exec: N elements do not repay threads*/) {
    const auto run = [&]<class R>() { finish<R>(nll.span<R>(), lse.span<R>(), state, targets); };
    nll.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

void cross_entropy_sums(Tensor sums, Tensor nll, Tensor lse, std::span<const int32_t> targets, Write write,
                        const Exec& /*exec: N elements do not repay threads*/) {
    double* out = sums.ptr<double>();
    std::array<double, 3> here{};
    const auto add = [&]<class R>(std::span<R> nlls, std::span<R> lses) {
        for (size_t n = 0; n < targets.size(); ++n) {
            if (targets[n] < 0) continue;
            here[0] += static_cast<double>(nlls[n]);
            here[1] += static_cast<double>(lses[n]) * static_cast<double>(lses[n]);
            here[2] += 1;
        }
    };
    nll.dtype == DType::kF64 ? add(nll.span<double>(), lse.span<double>()) : add(nll.span<float>(), lse.span<float>());
    for (size_t i = 0; i < here.size(); ++i) out[i] = write == Write::kAccumulate ? out[i] + here[i] : here[i];
}

void cross_entropy_gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale,
                            double z_loss, const Exec& exec) {
    dispatch_float(logits.dtype,
                   [&]<class T>() { gradient<T>(logits, v0, lse, targets, scale, z_loss, exec.threads); });
}

void cross_entropy_whole(Tensor nll, Tensor lse, Tensor logits, const CrossEntropyState& state,
                         std::span<const int32_t> targets, double scale, double z_loss, const Exec& exec) {
    cpu::cross_entropy_begin(state, exec);
    cpu::cross_entropy_accumulate(state, logits, 0, targets, exec);
    cpu::cross_entropy_finish(nll, lse, state, targets, exec);
    cpu::cross_entropy_gradient(logits, 0, lse, targets, scale, z_loss, exec);
}

}  // namespace plimsoll::cpu
