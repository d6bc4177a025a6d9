#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu.h"

namespace plimsoll::cpu {
namespace {

template <class R, class Out>
void forward(Out* out, R* mean, R* rstd, const R* x, const R* gain, const R* bias, int64_t N, int64_t C, R eps,
             int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t n = 0; n < N; ++n) {
        const R* row = x + n * C;
        R centre = 0;
        if (mean) {
#pragma omp simd reduction(+ : centre)
            for (int64_t c = 0; c < C; ++c) centre += row[c];
            centre /= static_cast<R>(C);
            mean[n] = centre;
        }
        R squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t c = 0; c < C; ++c) squares += (row[c] - centre) * (row[c] - centre);
        const R scale = 1 / std::sqrt(squares / static_cast<R>(C) + eps);
        rstd[n] = scale;
        Out* to = out + n * C;
        for (int64_t c = 0; c < C; ++c)
            to[c] = Out((row[c] - centre) * scale * gain[c] + (bias ? bias[c] : R(0)));
    }
}

template <class R, class Out>
void backward(R* dx, R* dgain, R* dbias, const Out* dout, const R* x, const R* gain, const R* mean, const R* rstd,
              int64_t N, int64_t C, Write write, int threads) {
    const int64_t slot_rows = (N + kNormSlots - 1) / kNormSlots;
    std::vector<R> partial(static_cast<size_t>(2 * kNormSlots * C), R(0));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t slot = 0; slot < kNormSlots; ++slot) {
        R* slot_gain = partial.data() + 2 * slot * C;
        R* slot_bias = slot_gain + C;
        const int64_t end = std::min(N, (slot + 1) * slot_rows);
        for (int64_t n = slot * slot_rows; n < end; ++n) {
            const R* row = x + n * C;
            const Out* grad = dout + n * C;
            const R centre = mean ? mean[n] : R(0);
            const R scale = rstd[n];
            R sum = 0, sum_xhat = 0;
#pragma omp simd reduction(+ : sum, sum_xhat)
            for (int64_t c = 0; c < C; ++c) {
                const R g = static_cast<R>(grad[c]) * gain[c];
                sum += g;
                sum_xhat += g * (row[c] - centre) * scale;
            }
            const R mean_g = mean ? sum / static_cast<R>(C) : R(0);
            const R mean_g_xhat = sum_xhat / static_cast<R>(C);
            R* to = dx + n * C;
            for (int64_t c = 0; c < C; ++c) {
                const R xhat = (row[c] - centre) * scale;
                const R d = static_cast<R>(grad[c]);
                to[c] += scale * (d * gain[c] - mean_g - xhat * mean_g_xhat);
                slot_gain[c] += d * xhat;
                slot_bias[c] += d;
            }
        }
    }
    for (int64_t c = 0; c < C; ++c) {
        R gain_sum = 0, bias_sum = 0;
        for (int64_t slot = 0; slot < kNormSlots; ++slot) {
            gain_sum += partial[static_cast<size_t>(2 * slot * C + c)];
            bias_sum += partial[static_cast<size_t>((2 * slot + 1) * C + c)];
        }
        dgain[c] = (write == Write::kAccumulate ? dgain[c] : R(0)) + gain_sum;
        if (dbias) dbias[c] = (write == Write::kAccumulate ? dbias[c] : R(0)) + bias_sum;
    }
}

template <class R>
R* optional_ptr(Tensor tensor) { return tensor ? tensor.ptr<R>() : nullptr; }

// Calls f<R, Out>() for a stream in R (fp32, fp64) read and written as Out (R or bf16).
template <class F>
void dispatch_norm(DType stream, DType out, F&& f) {
    if (stream == DType::kF32 && out == DType::kF32) return f.template operator()<float, float>();
    if (stream == DType::kF32 && out == DType::kBF16) return f.template operator()<float, bf16>();
    if (stream == DType::kF64 && out == DType::kF64) return f.template operator()<double, double>();
    check(false, "norm: no kernel from {} to {}", name_of(stream), name_of(out));
}

}  // namespace

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec) {
    dispatch_norm(x.dtype, out.dtype, [&]<class R, class Out>() {
        forward<R, Out>(out.ptr<Out>(), optional_ptr<R>(mean), rstd.ptr<R>(), x.ptr<R>(), gain.ptr<R>(),
                        optional_ptr<R>(bias), x.shape[0], x.shape[1], static_cast<R>(spec.eps), exec.threads);
    });
}

void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec /*spec: mean is present for LayerNorm only*/, Write write, const Exec& exec) {
    dispatch_norm(x.dtype, dout.dtype, [&]<class R, class Out>() {
        backward<R, Out>(dx.ptr<R>(), dgain.ptr<R>(), optional_ptr<R>(dbias), dout.ptr<Out>(), x.ptr<R>(), gain.ptr<R>(),
                         optional_ptr<R>(mean), rstd.ptr<R>(), x.shape[0], x.shape[1], write, exec.threads);
    });
}

}  // namespace plimsoll::cpu
