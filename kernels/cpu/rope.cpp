#include <algorithm>
#include <cmath>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/rotations.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// The frequencies of a base, kept by the calling thread until it asks for others: a model asks in every layer.
std::span<const double> frequencies_of(double theta, int64_t HS) {
    thread_local std::vector<double> kept;
    thread_local double kept_theta = 0;
    if (theta != kept_theta || static_cast<int64_t>(kept.size()) != HS / 2) kept = rope_frequencies(theta, HS);
    kept_theta = theta;
    return kept;
}

// direction is 1 for the forward rotation, -1 for its inverse.
template <class T>
void rotate(Tensor x, std::span<const int32_t> positions, std::span<const double> frequencies, int direction,
            int threads) {
    using R = Accumulator<T>;
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2], half = HS / 2;
    if (N == 0) return;
    const R* table = rotations<R>(*std::max_element(positions.begin(), positions.end()) + int64_t{1}, frequencies);
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
    cpu::rope_forward(x, positions, frequencies_of(theta, x.shape[2]), exec);
}

void rope_forward(Tensor x, std::span<const int32_t> positions, std::span<const double> frequencies, const Exec& exec) {
    dispatch_float(x.dtype, [&]<class T>() { rotate<T>(x, positions, frequencies, 1, exec.threads); });
}

void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec) {
    const std::span<const double> frequencies = frequencies_of(theta, dx.shape[2]);
    dispatch_float(dx.dtype, [&]<class T>() { rotate<T>(dx, positions, frequencies, -1, exec.threads); });
}

}  // namespace plimsoll::cpu

namespace plimsoll {

std::vector<double> rope_frequencies(double theta, int64_t HS) {
    const int64_t half = HS / 2;
    std::vector<double> frequencies(static_cast<size_t>(half));
    for (int64_t c = 0; c < half; ++c)
        frequencies[static_cast<size_t>(c)] = std::pow(theta, -static_cast<double>(c) / static_cast<double>(half));
    return frequencies;
}

}  // namespace plimsoll
