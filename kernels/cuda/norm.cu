// RMSNorm and LayerNorm: a warp per row. Fused with the residual addition where the two meet.
#include "kernels/norm.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/residual.h"

namespace plimsoll::cuda {
namespace {

constexpr int kRowsPerBlock = 8;

// Pointers of one call; mean (RMSNorm) and bias may be null, and with `branch` null there is no sum to take first.
template <class Out, class Branch>
struct NormPointers {
    Out* out;
    float *mean, *rstd, *sum;
    const float* x;
    const Branch* branch;
    const float *gain, *bias;
};

template <int kVec, bool kResidual, class Out, class Branch>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    norm_forward_kernel(const __grid_constant__ NormPointers<Out, Branch> p, int64_t N, int64_t C, float eps) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int64_t first = threadIdx.x % kWarp * kVec;
    const float* row = p.x + n * C;
    if constexpr (kResidual) {
        float* sum = p.sum + n * C;
        for (int64_t c = first; c < C; c += kWarp * kVec) {
            auto values = load<float, kVec>(row + c);
            const auto added = load<Branch, kVec>(p.branch + n * C + c);
            for (int i = 0; i < kVec; ++i) values.at[i] += added.at[i];
            store<float, kVec>(sum + c, values);
        }
        row = sum;  // each lane reads back what it wrote itself
    }
    float centre = 0;
    if (p.mean) {
        for (int64_t c = first; c < C; c += kWarp * kVec) {
            const auto values = load<float, kVec>(row + c);
            for (int i = 0; i < kVec; ++i) centre += values.at[i];
        }
        centre = warp_sum(centre) / static_cast<float>(C);
    }
    float squares = 0;
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        const auto values = load<float, kVec>(row + c);
        for (int i = 0; i < kVec; ++i) squares += (values.at[i] - centre) * (values.at[i] - centre);
    }
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(C) + eps);
    if (threadIdx.x % kWarp == 0) {
        if (p.mean) p.mean[n] = centre;
        p.rstd[n] = scale;
    }
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        auto values = load<float, kVec>(row + c);
        const auto gains = load<float, kVec>(p.gain + c);
        for (int i = 0; i < kVec; ++i) values.at[i] = (values.at[i] - centre) * scale * gains.at[i];
        if (p.bias) {
            const auto biases = load<float, kVec>(p.bias + c);
            for (int i = 0; i < kVec; ++i) values.at[i] += biases.at[i];
        }
        store<Out, kVec>(p.out + n * C + c, values);
    }
}

// dx += rstd (g - mean(g) - xhat mean(g xhat)), g = dout gain.
template <int kVec, class Out>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    norm_backward_kernel(float* dx, const Out* dout, const float* x, const float* gain, const float* mean,
                         const float* rstd, int64_t N, int64_t C) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int64_t first = threadIdx.x % kWarp * kVec;
    const float centre = mean ? mean[n] : 0.0f, scale = rstd[n];
    float sum_g = 0, sum_g_xhat = 0;
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        const auto d = load<Out, kVec>(dout + n * C + c);
        const auto gains = load<float, kVec>(gain + c), values = load<float, kVec>(x + n * C + c);
        for (int i = 0; i < kVec; ++i) {
            const float g = d.at[i] * gains.at[i];
            sum_g += g;
            sum_g_xhat += g * ((values.at[i] - centre) * scale);
        }
    }
    const float mean_g = mean ? warp_sum(sum_g) / static_cast<float>(C) : 0.0f;
    const float mean_g_xhat = warp_sum(sum_g_xhat) / static_cast<float>(C);
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        const auto d = load<Out, kVec>(dout + n * C + c);
        const auto gains = load<float, kVec>(gain + c), values = load<float, kVec>(x + n * C + c);
        auto to = load<float, kVec>(dx + n * C + c);
        for (int i = 0; i < kVec; ++i) {
            const float xhat = (values.at[i] - centre) * scale;
            to.at[i] += scale * (d.at[i] * gains.at[i] - mean_g - xhat * mean_g_xhat);
        }
        store<float, kVec>(dx + n * C + c, to);
    }
}

// dgain's term: dout xhat.
template <class Out>
struct GainTerm {
    const Out* dout;
    const float *x, *mean, *rstd;
    int64_t C;

    PLIMSOLL_DEVICE float operator()(int64_t n, int64_t c) const {
        const float centre = mean ? mean[n] : 0.0f;
        return static_cast<float>(dout[n * C + c]) * ((x[n * C + c] - centre) * rstd[n]);
    }
};

template <bool kResidual, class Out, class Branch>
void launch_forward(const NormPointers<Out, Branch>& p, int64_t N, int64_t C, double eps, bool vectors,
                    const Exec& exec) {
    const dim3 grid(blocks_for(N, kRowsPerBlock)), block(kRowsPerBlock * kWarp);
    if (N == 0) return;
    by_vectors(vectors, [&]<int kVec>() {
        PLIMSOLL_LAUNCH((norm_forward_kernel<kVec, kResidual, Out, Branch>), grid, block, 0, exec.cuda->stream(), p, N,
                        C, static_cast<float>(eps));
    });
    launch_check("norm_forward");
}

}  // namespace

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec) {
    dispatch_device_float(out.dtype, [&]<class Out>() {
        const NormPointers<Out, float> p{out.ptr<Out>(),    optional<float>(mean), rstd.ptr<float>(),
                                         nullptr,           x.ptr<float>(),        nullptr,
                                         gain.ptr<float>(), optional<float>(bias)};
        launch_forward<false>(p, x.shape[0], x.shape[1], spec.eps, fours(x.shape[1], {&out, &x, &gain, &bias}), exec);
    });
}

void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec) {
    const bool vectors = fours(x.shape[1], {&sum, &out, &x, &branch, &gain, &bias});
    dispatch_device_float(out.dtype, [&]<class Out>() {
        dispatch_device_float(branch.dtype, [&]<class Branch>() {
            const NormPointers<Out, Branch> p{out.ptr<Out>(),    optional<float>(mean), rstd.ptr<float>(),
                                              sum.ptr<float>(),  x.ptr<float>(),        branch.ptr<Branch>(),
                                              gain.ptr<float>(), optional<float>(bias)};
            launch_forward<true>(p, x.shape[0], x.shape[1], spec.eps, vectors, exec);
        });
    });
}

void norm_backward(Tensor dx, Tensor dgain, Tensor dbias, Tensor dout, Tensor x, Tensor gain, Tensor mean, Tensor rstd,
                   NormSpec /*spec*/, Write write, const Exec& exec) {
    dispatch_device_float(dout.dtype, [&]<class Out>() {
        const int64_t N = x.shape[0], C = x.shape[1];
        const Out* d = dout.ptr<Out>();
        const float *xs = x.ptr<float>(), *means = optional<float>(mean), *rstds = rstd.ptr<float>();
        if (N > 0) {
            const dim3 grid(blocks_for(N, kRowsPerBlock)), block(kRowsPerBlock * kWarp);
            by_vectors(fours(C, {&dx, &dout, &x, &gain}), [&]<int kVec>() {
                PLIMSOLL_LAUNCH((norm_backward_kernel<kVec, Out>), grid, block, 0, exec.cuda->stream(), dx.ptr<float>(),
                                d, xs, gain.ptr<float>(), means, rstds, N, C);
            });
            launch_check("norm_backward");
        }
        row_sums(dgain.ptr<float>(), GainTerm<Out>{d, xs, means, rstds, C}, N, C, write, exec);
        if (dbias) row_sums(dbias.ptr<float>(), Element<Out>{d, C}, N, C, write, exec);
    });
}

}  // namespace plimsoll::cuda
