#include <algorithm>

#include "kernels/cpu/avx512_bf16/head_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

// Of every token and head, made at once: its exponentials one by one would take longer than scaling the head.
template <class T>
struct Temperature {
    using R = Accumulator<T>;
    const R* alpha;  // null: without
    const R* logs;   // (N) of positions + 1, with alpha
    const R* tanh;   // (N, H) of z; null: without
    const R* tau;    // (N, H)

    Temperature(Tensor z, Tensor alpha, std::span<const int32_t> positions, int64_t N, int64_t H, const Exec& exec)
        : alpha(optional_ptr<R>(alpha)), logs(nullptr), tanh(nullptr) {
        const T* const from = optional_ptr<T>(z);
        R* const of_positions = workspace<struct LogsOfPositions, R>(N);
        R* const tanhs = workspace<struct Tanhs, R>(N * H);
        R* const taus = workspace<struct Taus, R>(N * H);
        R* const slopes = workspace<struct Slopes, R>(H);  // of positions' logarithms
        for (int64_t h = 0; h < H; ++h) slopes[h] = alpha ? sigmoid_fast(this->alpha[h]) : R(0);
        constexpr int64_t kTokens = 64;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(16 * N))
        for (int64_t first = 0; first < N; first += kTokens) {
            const int64_t end = std::min(N, first + kTokens);
#pragma omp simd
            for (int64_t i = first * H; i < end * H; ++i)
                tanhs[i] = from ? 2 * sigmoid_fast(2 * static_cast<R>(from[i])) - 1 : R(0);
            for (int64_t n = first; n < end; ++n) {
                const R log = alpha ? std::log(static_cast<R>(positions[static_cast<size_t>(n)]) + R(1)) : R(0);
                of_positions[n] = log;
                for (int64_t h = 0; h < H; ++h) taus[n * H + h] = R(1) + tanhs[n * H + h] + slopes[h] * log;
            }
        }
        if (alpha) logs = of_positions;
        if (from) tanh = tanhs;
        tau = taus;
    }
};

template <class T>
void scale(T* to, const T* from, Accumulator<T> tau, int64_t HS) {
    if constexpr (std::is_same_v<T, bf16>)
        if (avx512_bf16::available()) return avx512_bf16::scale(to, from, tau, HS);
#pragma omp simd
    for (int64_t c = 0; c < HS; ++c) store(to[c], tau * static_cast<Accumulator<T>>(from[c]));
}

// The same, and returns from . other.
template <class T>
Accumulator<T> scale_and_dot(T* to, const T* from, const T* other, Accumulator<T> tau, int64_t HS) {
    using R = Accumulator<T>;
    if constexpr (std::is_same_v<T, bf16>)
        if (avx512_bf16::available()) return avx512_bf16::scale_and_dot(to, from, other, tau, HS);
    const R sum = lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(from[c]) * static_cast<R>(other[c]); });
    scale(to, from, tau, HS);
    return sum;
}

}  // namespace

void temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                         const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    dispatch_float(x.dtype, [&]<class T>() {
        const Temperature<T> t(z, alpha, positions, N, H, exec);
        for_each_head(N, H, N * H * HS, exec, [&](int64_t n, int64_t h) {
            scale(head_row<T>(out, n, h), head_row<T>(x, n, h), t.tau[n * H + h], HS);
        });
    });
}

void temperature_backward(Tensor dx, Tensor dz, Tensor dalpha, Tensor dtau, Tensor dout, Tensor x, Tensor z,
                          Tensor alpha, std::span<const int32_t> positions, Write write, const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    dispatch_float(x.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        const Temperature<T> t(z, alpha, positions, N, H, exec);
        for_each_head(N, H, N * H * HS, exec, [&](int64_t n, int64_t h) {
            const R d = scale_and_dot(head_row<T>(dx, n, h), head_row<T>(dout, n, h), head_row<T>(x, n, h),
                                      t.tau[n * H + h], HS);
            if (t.tanh) {
                const R tanh = t.tanh[n * H + h];
                store(dz.ptr<T>()[n * H + h], d * (1 - tanh * tanh));
            }
            if (t.alpha) dtau.ptr<R>()[n * H + h] = d;
        });
        if (!t.alpha) return;
        // A sum over N H numbers: not worth threads, but in ranges, as on other devices.
        const int64_t slot_rows = std::max<int64_t>(1, (N + kTemperatureSlots - 1) / kTemperatureSlots);
        for (int64_t h = 0; h < H; ++h) {
            R sum = 0;
            for (int64_t begin = 0; begin < N; begin += slot_rows) {
                R of_slot = 0;
                for (int64_t n = begin; n < std::min(N, begin + slot_rows); ++n)
                    of_slot += dtau.ptr<R>()[n * H + h] * t.logs[n];
                sum += of_slot;
            }
            const R s = sigmoid_fast(t.alpha[h]), gradient = sum * s * (1 - s);
            R& to = dalpha.ptr<R>()[h];
            to = write == Write::kAccumulate ? to + gradient : gradient;
        }
    });
}

}  // namespace plimsoll::cpu
