#include <algorithm>
#include <cmath>

#include "kernels/cpu/avx512_bf16/adam_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"

namespace plimsoll::cpu {
namespace {

// Elements per unit of work: part of nothing's numerics, but a unit's vector and scalar parts never depend on threads.
constexpr int64_t kBlock = 16384;

// Elements from which on working copies are written past the caches, which could not keep them.
constexpr int64_t kStreamed = 32 << 20;

// Writes the working copy of a unit just updated, which is still in cache.
template <class R>
void write_working(bf16* working, const R* param, int64_t begin, int64_t end, const WorkingRounding& rounding) {
    if (rounding.stochastic) {
        for (int64_t i = begin; i < end; ++i) working[i] = rounding(static_cast<float>(param[i]), i);
        return;
    }
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) store(working[i], static_cast<float>(param[i]));
}

template <class R>
AdamFactors<R> adam_factors(const UpdateFactors& f) {
    return {.scale = static_cast<R>(f.gradient_scale),
            .decay = static_cast<R>(f.decay),
            .beta1 = static_cast<R>(f.beta1),
            .fresh1 = static_cast<R>(1 - f.beta1),
            .beta2 = static_cast<R>(f.beta2),
            .fresh2 = static_cast<R>(1 - f.beta2),
            .eps = static_cast<R>(f.eps),
            .step_size = static_cast<R>(f.corrected_rate),
            .root_correction = static_cast<R>(f.root_correction)};
}

template <class R>
void adamw_unit(R* param, R* m, R* v, const R* grad, bf16* working, int64_t count, const AdamFactors<R>& f,
                const WorkingRounding& rounding) {
    const auto update = [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
            const R g = f.scale * grad[i];
            const R mean = f.beta1 * m[i] + f.fresh1 * g;
            const R square = f.beta2 * v[i] + f.fresh2 * g * g;
            m[i] = mean;
            v[i] = square;
            param[i] = param[i] * f.decay - f.step_size * mean / (std::sqrt(square) * f.root_correction + f.eps);
        }
        if (working) write_working(working, param, begin, end, rounding);
    };
    for_blocks_ahead(count, update, param, m, v, grad);
}

template <class R>
void adamw(R* param, R* m, R* v, const R* grad, bf16* working, int64_t count, const UpdateFactors& factors,
           const WorkingRounding& rounding, bool streams, int threads) {
    const AdamFactors<R> f = adam_factors<R>(factors);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(count))
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const int64_t unit = std::min(kBlock, count - begin);
        bf16* const copies = working ? working + begin : nullptr;
        if constexpr (std::is_same_v<R, float>) {
            if (!rounding.stochastic && avx512_bf16::available()) {
                avx512_bf16::adamw(param + begin, m + begin, v + begin, grad + begin, copies, unit, f, streams);
                continue;
            }
        }
        WorkingRounding here = rounding;
        here.first += begin;
        adamw_unit(param + begin, m + begin, v + begin, grad + begin, copies, unit, f, here);
    }
}

template <class R>
void sgd(R* param, R* buffer, const R* grad, bf16* working, int64_t count, const UpdateFactors& f,
         const WorkingRounding& rounding, int threads) {
    const R scale = static_cast<R>(f.gradient_scale), decay = static_cast<R>(f.coupled_decay);
    const R momentum = static_cast<R>(f.momentum), lr = static_cast<R>(f.rate);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(count))
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, count);
        if (f.first) std::fill(buffer + begin, buffer + end, R(0));
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
            buffer[i] = momentum * buffer[i] + (scale * grad[i] + decay * param[i]);
            param[i] -= lr * buffer[i];
        }
        if (working) write_working(working, param, begin, end, rounding);
    }
}

int64_t elements_of(const UpdateSpans& spans) {
    int64_t count = 0;
    for (int64_t i = 0; i < spans.count; ++i) count += spans.at[i].count;
    return count;
}

// Calls f(span, where its working copies begin, their rounding) for every span.
template <class F>
void by_spans(const UpdateSpans& spans, Tensor working, F&& f) {
    bf16* const copies = optional_ptr<bf16>(working);
    for (int64_t i = 0; i < spans.count; ++i) {
        const UpdateSpan& span = spans.at[i];
        WorkingRounding rounding = span.factors.rounding;
        rounding.first += span.begin;
        f(span, copies ? copies + span.begin : nullptr, rounding);
    }
}

}  // namespace

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const UpdateSpans& spans,
                const Exec& exec) {
    const bool streams = elements_of(spans) >= kStreamed;
    const auto run = [&]<class R>() {
        by_spans(spans, working, [&](const UpdateSpan& at, bf16* copies, const WorkingRounding& rounding) {
            adamw<R>(param.ptr<R>() + at.begin, m.ptr<R>() + at.state, v.ptr<R>() + at.state, grad.ptr<R>() + at.begin,
                     copies, at.count, at.factors, rounding, streams, exec.threads);
        });
    };
    param.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const UpdateSpans& spans, const Exec& exec) {
    const auto run = [&]<class R>() {
        by_spans(spans, working, [&](const UpdateSpan& at, bf16* copies, const WorkingRounding& rounding) {
            sgd<R>(param.ptr<R>() + at.begin, buffer.ptr<R>() + at.state, grad.ptr<R>() + at.begin, copies, at.count,
                   at.factors, rounding, exec.threads);
        });
    };
    param.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

}  // namespace plimsoll::cpu
