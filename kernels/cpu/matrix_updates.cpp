// What Muon and OrthoAdam need beside matrix products.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

constexpr int64_t kBlock = 16384;  // elements per unit of work
constexpr int64_t kColumns = 64;   // per unit of a rotation over rows: 256 bytes of fp32 from each

template <class F>
void dispatch_wide(DType dtype, F&& f) {
    dtype == DType::kF64 ? f.template operator()<double>() : f.template operator()<float>();
}

// Calls f(begin, end) for every unit of `count` elements.
template <class F>
void by_blocks(int64_t count, int threads, F&& f) {
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(count))
    for (int64_t begin = 0; begin < count; begin += kBlock) f(begin, std::min(begin + kBlock, count));
}

// A Hadamard transform of p entries that lie `stride` apart, for `width` neighbours of each at once.
template <class R>
void hadamard(R* x, int64_t p, int64_t stride, int64_t width) {
    for (int64_t h = 1; h < p; h *= 2)
        for (int64_t first = 0; first < p; first += 2 * h) {
            // The h entries of a half lie one after the other: where they are no columns, they are what is vectorised.
            const int64_t rows = stride == 1 ? 1 : h, length = stride == 1 ? h : width;
            for (int64_t row = 0; row < rows; ++row) {
                R *a = x + (first + row) * stride, *b = a + h * stride;
#pragma omp simd
                for (int64_t i = 0; i < length; ++i) {
                    const R sum = a[i] + b[i], difference = a[i] - b[i];
                    a[i] = sum, b[i] = difference;
                }
            }
        }
}

// The entries [begin, begin + p) of an axis in one pass: signs before the transform, or, on the way back, after it.
template <class R>
void rotate_pass(R* x, const R* factors, int64_t p, int64_t stride, int64_t width, R scale, bool back) {
    const auto multiply = [&](auto&& factor) {
        for (int64_t j = 0; j < p; ++j)
            for (int64_t i = 0; i < width; ++i) x[j * stride + i] *= factor(j);
    };
    if (!back) multiply([&](int64_t j) { return factors[j]; });
    hadamard(x, p, stride, width);
    multiply([&](int64_t j) { return back ? factors[j] * scale : scale; });
}

}  // namespace

void nesterov_direction(Tensor direction, Tensor buffer, Tensor grad, const UpdateFactors* factors, const Exec& exec) {
    dispatch_wide(grad.dtype, [&]<class R>() {
        R *to = direction.ptr<R>(), *velocity = buffer.ptr<R>();
        const R* from = grad.ptr<R>();
        const R momentum = static_cast<R>(factors->momentum), fresh = static_cast<R>(1 - factors->momentum),
                scale = static_cast<R>(factors->gradient_scale);
        by_blocks(grad.elements(), exec.threads, [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) {
                const R g = scale * from[i];
                const R moved = momentum * velocity[i] + fresh * g;
                velocity[i] = moved;
                to[i] = momentum * moved + fresh * g;
            }
        });
        const double norm = std::sqrt(cpu::sum_of_squares(direction.reshape({direction.elements()}), exec));
        const R factor = static_cast<R>(1 / std::max(norm, kNesterovEps));
        by_blocks(grad.elements(), exec.threads, [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) to[i] *= factor;
        });
    });
}

void quintic_polynomial(Tensor gram, Tensor square, const QuinticCoefficients& coefficients, const Exec& exec) {
    dispatch_wide(gram.dtype, [&]<class R>() {
        R* to = gram.ptr<R>();
        const R* squared = square.ptr<R>();
        const R a = static_cast<R>(coefficients.a), b = static_cast<R>(coefficients.b),
                c = static_cast<R>(coefficients.c);
        const int64_t side = gram.shape[0];
        by_blocks(gram.elements(), exec.threads, [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) to[i] = b * to[i] + c * squared[i];
            for (int64_t row = (begin + side) / (side + 1); row * (side + 1) < end; ++row) to[row * (side + 1)] += a;
        });
    });
}

void apply_direction(Tensor param, Tensor direction, Tensor working, const UpdateFactors* factors, const Exec& exec) {
    dispatch_wide(param.dtype, [&]<class R>() {
        R* to = param.ptr<R>();
        const R* step = direction.ptr<R>();
        bf16* rounded = optional_ptr<bf16>(working);
        const R rate = static_cast<R>(factors->rate), decay = static_cast<R>(factors->decay);
        by_blocks(param.elements(), exec.threads, [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) to[i] = to[i] * decay - rate * step[i];
            if (!rounded) return;
            for (int64_t i = begin; i < end; ++i) rounded[i] = factors->rounding(static_cast<float>(to[i]), i);
        });
    });
}

void adam_direction(Tensor direction, Tensor m, Tensor v, const UpdateFactors* factors, const Exec& exec) {
    dispatch_wide(direction.dtype, [&]<class R>() {
        R *to = direction.ptr<R>(), *mean = m.ptr<R>(), *square = v.ptr<R>();
        const R scale = static_cast<R>(factors->gradient_scale), eps = static_cast<R>(factors->eps);
        const R beta1 = static_cast<R>(factors->beta1), beta2 = static_cast<R>(factors->beta2);
        const R fresh1 = static_cast<R>(1 - factors->beta1), fresh2 = static_cast<R>(1 - factors->beta2);
        const R mean_correction = static_cast<R>(factors->mean_correction);
        const R root_correction = static_cast<R>(factors->root_correction);
        by_blocks(direction.elements(), exec.threads, [&](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) {
                const R g = scale * to[i];
                mean[i] = beta1 * mean[i] + fresh1 * g;
                square[i] = beta2 * square[i] + fresh2 * g * g;
                to[i] = mean_correction * mean[i] / (std::sqrt(square[i]) * root_correction + eps);
            }
        });
    });
}

void rotate(Tensor x, Axis axis, Turn turn, const Rotation& rotation, const Exec& exec) {
    const int64_t R = x.shape[0], C = x.shape[1], n = axis == Axis::kRows ? R : C;
    const int64_t p = power_of_two_in(n);
    const int passes = Rotation::passes(n);
    const bool back = turn == Turn::kBack;
    dispatch_wide(x.dtype, [&]<class T>() {
        T* data = x.ptr<T>();
        T* signs = workspace<struct RotationSigns, T>(passes * p);
        for (int pass = 0; pass < passes; ++pass)
            for (int64_t j = 0; j < p; ++j)
                signs[pass * p + j] = rotation.flips(pass, Rotation::begin(pass, n) + j) ? T(-1) : T(1);
        const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(p)));
        // Rows each by themselves, or columns in neighbouring ones.
        const int64_t stride = axis == Axis::kRows ? C : 1, most = axis == Axis::kRows ? kColumns : 1;
        const int64_t units = axis == Axis::kRows ? (C + kColumns - 1) / kColumns : R;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(R * C))
        for (int64_t unit = 0; unit < units; ++unit) {
            T* from = data + (axis == Axis::kRows ? unit * kColumns : unit * C);
            const int64_t width = axis == Axis::kRows ? std::min(most, C - unit * kColumns) : 1;
            for (int i = 0; i < passes; ++i) {
                const int pass = back ? passes - 1 - i : i;
                rotate_pass(from + Rotation::begin(pass, n) * stride, signs + pass * p, p, stride, width, scale, back);
            }
        }
    });
}

}  // namespace plimsoll::cpu
