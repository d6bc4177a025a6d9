// What Muon and OrthoAdam need beside matrix products.
#include <cmath>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/square_sum.h"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostLevels = 4;  // of a Hadamard transform in one pass over memory: 16 entries in a thread's registers

PLIMSOLL_DEVICE int64_t thread_index() {
    return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

__global__ void __launch_bounds__(kThreads)
    nesterov_kernel(float* direction, float* buffer, const float* grad, int64_t count, const UpdateFactors* f) {
    const int64_t i = thread_index();
    if (i >= count) return;
    const float momentum = static_cast<float>(f->momentum), fresh = static_cast<float>(1 - f->momentum);
    const float scale = static_cast<float>(f->gradient_scale);
    const float g = scale * grad[i];
    const float moved = momentum * buffer[i] + fresh * g;
    buffer[i] = moved;
    direction[i] = momentum * moved + fresh * g;
}

// `squares`: the sum over x, as the kernel before it left it.
__global__ void __launch_bounds__(kThreads) to_unit_norm_kernel(float* x, int64_t count, const double* squares) {
    const int64_t i = thread_index();
    if (i >= count) return;
    const double norm = sqrt(*squares);
    x[i] *= static_cast<float>(1 / (norm < kNesterovEps ? kNesterovEps : norm));
}

__global__ void __launch_bounds__(kThreads)
    quintic_kernel(float* gram, const float* square, int64_t side, float a, float b, float c) {
    const int64_t i = thread_index();
    if (i >= side * side) return;
    gram[i] = b * gram[i] + c * square[i] + (i / side == i % side ? a : 0.0f);
}

__global__ void __launch_bounds__(kThreads)
    apply_kernel(float* param, const float* direction, bf16* working, int64_t count, const UpdateFactors* f) {
    const int64_t i = thread_index();
    if (i >= count) return;
    const float decay = static_cast<float>(f->decay), rate = static_cast<float>(f->rate);
    const float updated = param[i] * decay - rate * direction[i];
    param[i] = updated;
    if (working) working[i] = f->rounding(updated, i);
}

__global__ void __launch_bounds__(kThreads)
    adam_direction_kernel(float* direction, float* m, float* v, int64_t count, const UpdateFactors* f) {
    const int64_t i = thread_index();
    if (i >= count) return;
    const float beta1 = static_cast<float>(f->beta1), fresh1 = static_cast<float>(1 - f->beta1);
    const float beta2 = static_cast<float>(f->beta2), fresh2 = static_cast<float>(1 - f->beta2);
    const float mean_correction = static_cast<float>(f->mean_correction);
    const float root_correction = static_cast<float>(f->root_correction);
    const float g = static_cast<float>(f->gradient_scale) * direction[i];
    const float mean = beta1 * m[i] + fresh1 * g;
    const float square = beta2 * v[i] + fresh2 * g * g;
    m[i] = mean;
    v[i] = square;
    direction[i] = mean_correction * mean / (sqrtf(square) * root_correction + static_cast<float>(f->eps));
}

// Where the p entries of one pass lie: entry j of transform o and neighbour w at o * outer + j * stride + w.
struct Entries {
    int64_t transforms, outer, stride, width;
    int64_t first;  // entry of the axis
};

// Levels h, 2 h, ... of Hadamard transforms of p entries, each thread 2^kLevels of them. Signs come before the first
// level on the way into the basis, behind the last on the way back; `scale` is 1 but behind the last.
template <int kLevels>
__global__ void __launch_bounds__(kThreads)
    butterfly_kernel(float* x, Entries at, int64_t p, int64_t h, Rotation rotation, int pass, bool signs_before,
                     bool signs_after, float scale) {
    constexpr int kEntries = 1 << kLevels;
    int64_t t = thread_index();
    if (t >= at.transforms * (p >> kLevels) * at.width) return;
    const int64_t neighbour = t % at.width;
    t /= at.width;
    const int64_t group = t % (p >> kLevels), transform = t / (p >> kLevels);
    const int64_t first = group / h * h * kEntries + group % h;
    float* const from = x + transform * at.outer + neighbour;
    float values[kEntries];
#pragma unroll
    for (int k = 0; k < kEntries; ++k) {
        const int64_t j = first + k * h;
        const float value = from[j * at.stride];
        values[k] = signs_before && rotation.flips(pass, at.first + j) ? -value : value;
    }
#pragma unroll
    for (int half = 1; half < kEntries; half *= 2)
#pragma unroll
        for (int k = 0; k < kEntries; ++k) {
            if (k & half) continue;
            const float a = values[k], b = values[k + half];
            values[k] = a + b, values[k + half] = a - b;
        }
#pragma unroll
    for (int k = 0; k < kEntries; ++k) {
        const int64_t j = first + k * h;
        const float value = scale * values[k];
        from[j * at.stride] = signs_after && rotation.flips(pass, at.first + j) ? -value : value;
    }
}

template <class F>
void by_levels(int levels, F&& f) {
    static_assert(kMostLevels == 4);
    if (levels == 0) return f.template operator()<0>();
    if (levels == 1) return f.template operator()<1>();
    if (levels == 2) return f.template operator()<2>();
    if (levels == 3) return f.template operator()<3>();
    f.template operator()<4>();
}

void rotate_pass(float* x, const Entries& at, int64_t p, const Rotation& rotation, int pass, bool back,
                 const Exec& exec) {
    int left = 0;
    while (int64_t{1} << left < p) ++left;
    int64_t h = 1;
    do {
        const int levels = left < kMostLevels ? left : kMostLevels;
        left -= levels;
        const bool first = h == 1, last = left == 0;
        const float scale = last ? static_cast<float>(1 / std::sqrt(static_cast<double>(p))) : 1.0f;
        by_levels(levels, [&]<int kLevels>() {
            const int64_t count = at.transforms * (p >> kLevels) * at.width;
            PLIMSOLL_LAUNCH((butterfly_kernel<kLevels>), dim3(blocks_for(count, kThreads)), dim3(kThreads), 0,
                            exec.cuda->stream(), x, at, p, h, rotation, pass, first && !back, last && back, scale);
        });
        h <<= levels;
    } while (left > 0);
}

}  // namespace

void nesterov_direction(Tensor direction, Tensor buffer, Tensor grad, const UpdateFactors* factors, const Exec& exec) {
    const int64_t count = grad.elements();
    if (count == 0) return;
    const dim3 blocks(blocks_for(count, kThreads));
    PLIMSOLL_LAUNCH(nesterov_kernel, blocks, dim3(kThreads), 0, exec.cuda->stream(), direction.ptr<float>(),
                    buffer.ptr<float>(), grad.ptr<float>(), count, factors);
    const double* squares = square_sum_on_device(direction.ptr<float>(), count, exec);
    PLIMSOLL_LAUNCH(to_unit_norm_kernel, blocks, dim3(kThreads), 0, exec.cuda->stream(), direction.ptr<float>(), count,
                    squares);
    launch_check("nesterov_direction");
}

void quintic_polynomial(Tensor gram, Tensor square, const QuinticCoefficients& coefficients, const Exec& exec) {
    if (gram.elements() == 0) return;
    PLIMSOLL_LAUNCH(quintic_kernel, dim3(blocks_for(gram.elements(), kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    gram.ptr<float>(), square.ptr<float>(), gram.shape[0], static_cast<float>(coefficients.a),
                    static_cast<float>(coefficients.b), static_cast<float>(coefficients.c));
    launch_check("quintic_polynomial");
}

void apply_direction(Tensor param, Tensor direction, Tensor working, const UpdateFactors* factors, const Exec& exec) {
    const int64_t count = param.elements();
    if (count == 0) return;
    PLIMSOLL_LAUNCH(apply_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    param.ptr<float>(), direction.ptr<float>(), optional<bf16>(working), count, factors);
    launch_check("apply_direction");
}

void adam_direction(Tensor direction, Tensor m, Tensor v, const UpdateFactors* factors, const Exec& exec) {
    const int64_t count = direction.elements();
    if (count == 0) return;
    PLIMSOLL_LAUNCH(adam_direction_kernel, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                    direction.ptr<float>(), m.ptr<float>(), v.ptr<float>(), count, factors);
    launch_check("adam_direction");
}

void rotate(Tensor x, Axis axis, Turn turn, const Rotation& rotation, const Exec& exec) {
    const int64_t R = x.shape[0], C = x.shape[1], n = axis == Axis::kRows ? R : C;
    const int passes = Rotation::passes(n);
    for (int i = 0; i < passes; ++i) {
        const int pass = turn == Turn::kBack ? passes - 1 - i : i;
        const int64_t begin = Rotation::begin(pass, n);
        const Entries at = axis == Axis::kRows
                               ? Entries{.transforms = 1, .outer = 0, .stride = C, .width = C, .first = begin}
                               : Entries{.transforms = R, .outer = C, .stride = 1, .width = 1, .first = begin};
        rotate_pass(x.ptr<float>() + begin * at.stride, at, power_of_two_in(n), rotation, pass, turn == Turn::kBack,
                    exec);
    }
    launch_check("rotate");
}

}  // namespace plimsoll::cuda
