#include <algorithm>

#include "kernels/cpu/avx512_bf16/norm_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

// Where branch is not null, of x + branch, which goes to `sum`.
template <class R, class Branch, class Out>
void forward(Out* out, R* mean, R* rstd, R* sum, const R* x, const Branch* branch, const R* gain, const R* bias,
             int64_t N, int64_t C, R eps, int threads) {
    for_row_blocks(N, C, threads, [&](int64_t begin, int64_t rows) {
        if constexpr (std::is_same_v<R, float>) {
            const int64_t at = begin * C;
            if (avx512_bf16::available())
                return avx512_bf16::norm_forward(out + at, after(mean, begin), rstd + begin, after(sum, at), x + at,
                                                 after(branch, at), gain, bias, rows, C, eps);
        }
        for (int64_t n = begin; n < begin + rows; ++n) {
            const R* row = x + n * C;
            if (branch) add(sum + n * C, row, branch + n * C, C), row = sum + n * C;
            norm_row<R, Out>(out + n * C, after(mean, n), rstd + n, row, gain, bias, C, eps);
        }
    });
}

template <class R, class Out>
void backward(R* dx, Out* dbranch, R* dgain, R* dbias, const Out* dout, const R* x, const R* gain, const R* mean,
              const R* rstd, int64_t N, int64_t C, Write dx_write, Write write, int threads) {
    const bool adds = dx_write == Write::kAccumulate;
    const Slots slots(N, kNormSlots);
    R* partial = workspace<struct NormSlots, R>(2 * slots.count * C);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * C))
    for (int64_t slot = 0; slot < slots.count; ++slot) {
        R* slot_gain = partial + 2 * slot * C;
        R* slot_bias = slot_gain + C;
        std::fill_n(slot_gain, 2 * C, R(0));
        const int64_t begin = slots.begin(slot), end = slots.end(slot);
        if constexpr (std::is_same_v<R, float>) {
            const int64_t at = begin * C;
            if (avx512_bf16::available()) {
                avx512_bf16::norm_backward(dx + at, after(dbranch, at), slot_gain, dbias ? slot_bias : nullptr,
                                           dout + at, x + at, gain, after(mean, begin), rstd + begin, adds, end - begin,
                                           C);
                continue;
            }
        }
        for (int64_t n = begin; n < end; ++n) {
            const R* row = x + n * C;
            const Out* grad = dout + n * C;
            const R centre = mean ? mean[n] : R(0);
            const R scale = rstd[n];
            const R inverse_C = 1 / static_cast<R>(C);
            const R mean_g_xhat = inverse_C * lane_sum<R>(C, [&](int64_t c) {
                                      return static_cast<R>(grad[c]) * gain[c] * ((row[c] - centre) * scale);
                                  });
            R mean_g = 0;
            if (mean) mean_g = inverse_C * lane_sum<R>(C, [&](int64_t c) { return static_cast<R>(grad[c]) * gain[c]; });
            R* to = dx + n * C;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) {
                const R xhat = (row[c] - centre) * scale;
                const R d = static_cast<R>(grad[c]);
                to[c] = (adds ? to[c] : R(0)) + scale * (d * gain[c] - mean_g - xhat * mean_g_xhat);
                slot_gain[c] += d * xhat;
            }
            if (dbranch) {
#pragma omp simd
                for (int64_t c = 0; c < C; ++c) store(dbranch[n * C + c], to[c]);
            }
            if (!dbias) continue;
#pragma omp simd
            for (int64_t c = 0; c < C; ++c) slot_bias[c] += static_cast<R>(grad[c]);
        }
    }
    fold_slots(dgain, partial, slots.count, 2 * C, C, write);
    if (dbias) fold_slots(dbias, partial + C, slots.count, 2 * C, C, write);
}

}  // namespace

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec) {
    dispatch_stream(x.dtype, out.dtype, [&]<class R, class Out>() {
        forward<R, Out, Out>(out.ptr<Out>(), optional_ptr<R>(mean), rstd.ptr<R>(), nullptr, x.ptr<R>(), nullptr,
                             gain.ptr<R>(), optional_ptr<R>(bias), x.shape[0], x.shape[1], static_cast<R>(spec.eps),
                             exec.threads);
    });
}

void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec) {
    dispatch_stream(x.dtype, branch.dtype, [&]<class R, class Branch>() {
        dispatch_stream(x.dtype, out.dtype, [&]<class Same, class Out>() {
            if constexpr (std::is_same_v<R, Same>)
                forward<R, Branch, Out>(out.ptr<Out>(), optional_ptr<R>(mean), rstd.ptr<R>(), sum.ptr<R>(), x.ptr<R>(),
                                        branch.ptr<Branch>(), gain.ptr<R>(), optional_ptr<R>(bias), x.shape[0],
                                        x.shape[1], static_cast<R>(spec.eps), exec.threads);
        });
    });
}

void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec spec, Write dx_write, Write write, const Exec& exec) {
    cpu::residual_norm_backward(dx, {}, dgain, dbias, dout, x, gain, mean, rstd, spec, dx_write, write, exec);
}

void residual_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor sum, Tensor gain,
                            Tensor mean, Tensor rstd, NormSpec /*spec: mean is present for LayerNorm only*/,
                            Write dx_write, Write write, const Exec& exec) {
    dispatch_stream(sum.dtype, dout.dtype, [&]<class R, class Out>() {
        backward<R, Out>(dx.ptr<R>(), optional_ptr<Out>(dbranch), dgain.ptr<R>(), optional_ptr<R>(dbias),
                         dout.ptr<Out>(), sum.ptr<R>(), gain.ptr<R>(), optional_ptr<R>(mean), rstd.ptr<R>(),
                         sum.shape[0], sum.shape[1], dx_write, write, exec.threads);
    });
}

}  // namespace plimsoll::cpu
