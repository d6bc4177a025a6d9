#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// Rows of cos (half), sin (half) for positions 0 .. at least `positions` - 1. Kept by the calling thread until it asks
// with another theta or head size, and grown by doubling: a sine in fp64 costs as much as rotating a hundred pairs, and
// a model asks for the same table in every layer.
template <class R>
const R* rotations(int64_t positions, int64_t half, double theta) {
    thread_local std::vector<R> table;
    thread_local int64_t kept_half = 0;
    thread_local double kept_theta = 0;
    if (half != kept_half || theta != kept_theta) table.clear();
    kept_half = half, kept_theta = theta;
    const int64_t have = static_cast<int64_t>(table.size()) / (2 * half);
    if (positions <= have) return table.data();
    const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(positions, 256))));
    table.resize(static_cast<size_t>(rows * 2 * half));
    for (int64_t c = 0; c < half; ++c) {
        const double frequency = std::pow(theta, -static_cast<double>(c) / static_cast<double>(half));
        for (int64_t p = have; p < rows; ++p) {
            const double angle = static_cast<double>(p) * frequency;
            table[static_cast<size_t>(p * 2 * half + c)] = static_cast<R>(std::cos(angle));
            table[static_cast<size_t>((p * 2 + 1) * half + c)] = static_cast<R>(std::sin(angle));
        }
    }
    return table.data();
}

// direction is 1 for the forward rotation, -1 for its inverse.
template <class T>
void rotate(Tensor x, std::span<const int32_t> positions, double theta, int direction, int threads) {
    using R = Accumulator<T>;
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2], half = HS / 2;
    if (N == 0) return;
    const R* table = rotations<R>(*std::max_element(positions.begin(), positions.end()) + int64_t{1}, half, theta);
    T* data = x.ptr<T>();
    const R sign = static_cast<R>(direction);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * H * HS))
    for (int64_t n = 0; n < N; ++n) {
        const R* cosines = table + positions[static_cast<size_t>(n)] * HS;
        const R* sines = cosines + half;
        for (int64_t h = 0; h < H; ++h) {
            T* low = data + n * x.row_stride + h * HS;
            T* high = low + half;
#pragma omp simd
            for (int64_t c = 0; c < half; ++c) {
                const R a = static_cast<R>(low[c]), b = static_cast<R>(high[c]), sine = sign * sines[c];
                store(low[c], a * cosines[c] - b * sine);
                store(high[c], a * sine + b * cosines[c]);
            }
        }
    }
}

}  // namespace

void rope_forward(Tensor x, std::span<const int32_t> positions, double theta, const Exec& exec) {
    dispatch_float(x.dtype, [&]<class T>() { rotate<T>(x, positions, theta, 1, exec.threads); });
}

void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec) {
    dispatch_float(dx.dtype, [&]<class T>() { rotate<T>(dx, positions, theta, -1, exec.threads); });
}

}  // namespace plimsoll::cpu
