#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"

namespace plimsoll::cpu {
namespace {

// Elements per unit of work: part of nothing's numerics, but a unit's vector and scalar parts never depend on threads.
constexpr int64_t kBlock = 16384;

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
void adamw(R* param, R* m, R* v, const R* grad, bf16* working, int64_t count, const AdamWSpec& spec, int threads) {
    const auto step = static_cast<double>(spec.step);
    const R scale = static_cast<R>(spec.gradient_scale);
    const R decay = static_cast<R>(1 - spec.lr * spec.weight_decay);
    const R beta1 = static_cast<R>(spec.beta1), beta2 = static_cast<R>(spec.beta2), eps = static_cast<R>(spec.eps);
    const R fresh1 = static_cast<R>(1 - spec.beta1), fresh2 = static_cast<R>(1 - spec.beta2);
    const R step_size = static_cast<R>(spec.lr / (1 - std::pow(spec.beta1, step)));
    const R root_correction = static_cast<R>(1 / std::sqrt(1 - std::pow(spec.beta2, step)));
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(count))
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const auto update = [&](int64_t first, int64_t last) {
#pragma omp simd
            for (int64_t i = begin + first; i < begin + last; ++i) {
                const R g = scale * grad[i];
                const R mean = beta1 * m[i] + fresh1 * g;
                const R square = beta2 * v[i] + fresh2 * g * g;
                m[i] = mean;
                v[i] = square;
                param[i] = param[i] * decay - step_size * mean / (std::sqrt(square) * root_correction + eps);
            }
            if (working) write_working(working, param, begin + first, begin + last, spec.rounding);
        };
        for_blocks_ahead(std::min(kBlock, count - begin), update, param + begin, m + begin, v + begin, grad + begin);
    }
}

template <class R>
void sgd(R* param, R* buffer, const R* grad, bf16* working, int64_t count, const SgdSpec& spec, int threads) {
    const R scale = static_cast<R>(spec.gradient_scale), decay = static_cast<R>(spec.weight_decay);
    const R momentum = static_cast<R>(spec.momentum), lr = static_cast<R>(spec.lr);
    const bool first = spec.step == 1;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(count))
    for (int64_t begin = 0; begin < count; begin += kBlock) {
        const int64_t end = std::min(begin + kBlock, count);
        if (first) std::fill(buffer + begin, buffer + end, R(0));
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) {
            buffer[i] = momentum * buffer[i] + (scale * grad[i] + decay * param[i]);
            param[i] -= lr * buffer[i];
        }
        if (working) write_working(working, param, begin, end, spec.rounding);
    }
}

}  // namespace

void adamw_step(Tensor param, Tensor m, Tensor v, Tensor grad, Tensor working, const AdamWSpec& spec,
                const Exec& exec) {
    const auto run = [&]<class R>() {
        adamw<R>(param.ptr<R>(), m.ptr<R>(), v.ptr<R>(), grad.ptr<R>(), optional_ptr<bf16>(working), param.elements(),
                 spec, exec.threads);
    };
    param.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

void sgd_step(Tensor param, Tensor buffer, Tensor grad, Tensor working, const SgdSpec& spec, const Exec& exec) {
    const auto run = [&]<class R>() {
        sgd<R>(param.ptr<R>(), buffer.ptr<R>(), grad.ptr<R>(), optional_ptr<bf16>(working), param.elements(), spec,
               exec.threads);
    };
    param.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

}  // namespace plimsoll::cpu
