#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

template <class T>
struct Temperature {
    using R = Accumulator<T>;
    const T* z;      // null: without
    const R* alpha;  // null: without
    const R* logs;   // of every token's position + 1, with alpha
    int64_t H;

    Temperature(Tensor z, Tensor alpha, std::span<const int32_t> positions, int64_t N, int64_t H, const Exec& exec)
        : z(optional_ptr<T>(z)), alpha(optional_ptr<R>(alpha)), logs(nullptr), H(H) {
        if (!alpha) return;
        R* const of_positions = workspace<struct LogsOfPositions, R>(N);
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(16 * N))
        for (int64_t n = 0; n < N; ++n)
            of_positions[n] = std::log(static_cast<R>(positions[static_cast<size_t>(n)]) + R(1));
        logs = of_positions;
    }

    R tanh(int64_t n, int64_t h) const {
        return z ? 2 * sigmoid_fast(2 * static_cast<R>(z[n * H + h])) - 1 : R(0);
    }
    R tau(int64_t n, int64_t h) const {
        return R(1) + tanh(n, h) + (alpha ? sigmoid_fast(alpha[h]) * logs[n] : R(0));
    }
};

template <class T>
void scale(T* to, const T* from, Accumulator<T> tau, int64_t HS) {
#pragma omp simd
    for (int64_t c = 0; c < HS; ++c) store(to[c], tau * static_cast<Accumulator<T>>(from[c]));
}

}  // namespace

void temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                         const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    dispatch_float(x.dtype, [&]<class T>() {
        const Temperature<T> t(z, alpha, positions, N, H, exec);
        for_each_head(N, H, N * H * HS, exec, [&](int64_t n, int64_t h) {
            scale(head_row<T>(out, n, h), head_row<T>(x, n, h), t.tau(n, h), HS);
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
            const T *row = head_row<T>(x, n, h), *grad = head_row<T>(dout, n, h);
            const R d = lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(grad[c]) * static_cast<R>(row[c]); });
            if (t.z) {
                const R tanh = t.tanh(n, h);
                store(dz.ptr<T>()[n * H + h], d * (1 - tanh * tanh));
            }
            if (t.alpha) dtau.ptr<R>()[n * H + h] = d;
            scale(head_row<T>(dx, n, h), grad, t.tau(n, h), HS);
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
