#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

template <class T>
void forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, int threads) {
    using R = Accumulator<T>;
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    T* to = out.ptr<T>();
    const T* from = x.ptr<T>();
    R* rstds = rstd.ptr<R>();
    const R* gains = gain.ptr<R>();
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * H * HS))
    for (int64_t n = 0; n < N; ++n) {
        for (int64_t h = 0; h < H; ++h) {
            const T* row = from + n * x.row_stride + h * HS;
            T* out_row = to + n * out.row_stride + h * HS;
            const R squares =
                lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(row[c]) * static_cast<R>(row[c]); });
            const R scale = 1 / std::sqrt(squares / static_cast<R>(HS) + static_cast<R>(eps));
            rstds[n * H + h] = scale;
#pragma omp simd
            for (int64_t c = 0; c < HS; ++c) store(out_row[c], static_cast<R>(row[c]) * scale * gains[c]);
        }
    }
}

template <class T>
void backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write, int threads) {
    using R = Accumulator<T>;
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    const int64_t slot_rows = std::max<int64_t>(1, (N + kQkNormSlots - 1) / kQkNormSlots);
    const int64_t slots = std::max<int64_t>(1, (N + slot_rows - 1) / slot_rows);  // the others would stay empty
    R* partial = workspace<struct QkNormSlots, R>(slots * HS);
    T* to = dx.ptr<T>();
    const T *grads = dout.ptr<T>(), *from = x.ptr<T>();
    const R *gains = gain.ptr<R>(), *rstds = rstd.ptr<R>();
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * H * HS))
    for (int64_t slot = 0; slot < slots; ++slot) {
        R* slot_gain = partial + slot * HS;
        std::fill_n(slot_gain, HS, R(0));
        const int64_t end = std::min(N, (slot + 1) * slot_rows);
        for (int64_t n = slot * slot_rows; n < end; ++n) {
            for (int64_t h = 0; h < H; ++h) {
                const T* row = from + n * x.row_stride + h * HS;
                const T* grad = grads + n * dout.row_stride + h * HS;
                T* dx_row = to + n * dx.row_stride + h * HS;
                const R scale = rstds[n * H + h];
                const R sum = lane_sum<R>(HS, [&](int64_t c) {
                    return static_cast<R>(grad[c]) * gains[c] * (static_cast<R>(row[c]) * scale);
                });
                const R mean_g_xhat = sum / static_cast<R>(HS);
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) {
                    const R xhat = static_cast<R>(row[c]) * scale;
                    const R d = static_cast<R>(grad[c]);
                    slot_gain[c] += d * xhat;
                    store(dx_row[c], scale * (d * gains[c] - xhat * mean_g_xhat));
                }
            }
        }
    }
    fold_slots(dgain.ptr<R>(), partial, slots, HS, HS, write);
}

}  // namespace

void qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, const Exec& exec) {
    dispatch_float(x.dtype, [&]<class T>() { forward<T>(out, rstd, x, gain, eps, exec.threads); });
}

void qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                      const Exec& exec) {
    dispatch_float(x.dtype, [&]<class T>() { backward<T>(dx, dgain, dout, x, gain, rstd, write, exec.threads); });
}

}  // namespace plimsoll::cpu
