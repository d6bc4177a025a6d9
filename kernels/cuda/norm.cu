// RMSNorm and LayerNorm: a warp per row forward, a block per range of rows backward. Fused with the residual addition
// where the two meet.
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

// Pointers of one call; dbranch, mean (RMSNorm) and dbias may be null.
template <class Out>
struct NormGradients {
    float* dx;
    Out* dbranch;
    const Out* dout;
    const float *x, *gain, *mean, *rstd;
    bool adds;  // to dx, which otherwise is written
};

constexpr int kBackwardThreads = 256, kBackwardWarps = kBackwardThreads / kWarp;
constexpr int kBackwardColumns = 4 * kBackwardThreads;  // of a pack per thread
// Blocks, each with its range of rows: part of the numerics, so a constant. Two per multiprocessor of an H200.
constexpr int kBackwardRanges = 256;
constexpr int64_t kFewestColumns = 512, kMostColumns = 8 * kBackwardColumns;

// dx += rstd (g - mean(g) - xhat mean(g xhat)), g = dout gain, and each range's sums of dout xhat and of dout: a block
// per range, kRows rows of at most kPacks * kBackwardColumns elements at a time, which stay in registers, so that
// everything is read once. partial (kBackwardRanges, 2, C).
template <int kPacks, int kRows, class Out>
__global__ void __launch_bounds__(kBackwardThreads)
    norm_backward_rows_kernel(float* partial, const __grid_constant__ NormGradients<Out> p, int64_t N, int64_t C) {
    PLIMSOLL_SHARED(float2, sums, [2][kRows][kBackwardWarps]);
    const int warp = threadIdx.x / kWarp;
    const int64_t rows = (N + kBackwardRanges - 1) / kBackwardRanges, begin = blockIdx.x * rows;
    const int64_t end = begin + rows < N ? begin + rows : N;
    Pack<float, 4> dgain[kPacks] = {}, dbias[kPacks] = {};
    int buffer = 0;
    for (int64_t n0 = begin; n0 < end; n0 += kRows, buffer ^= 1) {
        Pack<float, 4> xhat[kRows][kPacks], d[kRows][kPacks], to[kRows][kPacks];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const int64_t n = n0 + r < end ? n0 + r : end - 1;  // a row too many is computed and not used
            const float centre = p.mean ? p.mean[n] : 0.0f, scale = p.rstd[n];
            float2 sum{0, 0};  // of g, of g xhat
#pragma unroll
            for (int k = 0; k < kPacks; ++k) {
                const int64_t c = k * kBackwardColumns + 4 * static_cast<int64_t>(threadIdx.x);
                if (c >= C) break;
                d[r][k] = load<Out, 4>(p.dout + n * C + c);
                to[r][k] = p.adds ? load<float, 4>(p.dx + n * C + c) : Pack<float, 4>{};
                const auto values = load<float, 4>(p.x + n * C + c), gains = load<float, 4>(p.gain + c);
                for (int i = 0; i < 4; ++i) {
                    const float g = d[r][k].at[i] * gains.at[i];
                    xhat[r][k].at[i] = (values.at[i] - centre) * scale;
                    sum.x += g;
                    sum.y += g * xhat[r][k].at[i];
                }
            }
            sum.x = p.mean ? warp_sum(sum.x) : 0.0f;
            sum.y = warp_sum(sum.y);
            if (threadIdx.x % kWarp == 0) sums[buffer][r][warp] = sum;
        }
        __syncthreads();  // one is enough: the next rows write the other buffer
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            const int64_t n = n0 + r;
            if (n >= end) break;
            float2 mean{0, 0};
            for (int w = 0; w < kBackwardWarps; ++w) mean.x += sums[buffer][r][w].x, mean.y += sums[buffer][r][w].y;
            mean.x /= static_cast<float>(C), mean.y /= static_cast<float>(C);
            const float scale = p.rstd[n];
#pragma unroll
            for (int k = 0; k < kPacks; ++k) {
                const int64_t c = k * kBackwardColumns + 4 * static_cast<int64_t>(threadIdx.x);
                if (c >= C) break;
                const auto gains = load<float, 4>(p.gain + c);
                for (int i = 0; i < 4; ++i) {
                    const float xh = xhat[r][k].at[i], dout = d[r][k].at[i];
                    to[r][k].at[i] += scale * (dout * gains.at[i] - mean.x - xh * mean.y);
                    dgain[k].at[i] += dout * xh;
                    dbias[k].at[i] += dout;
                }
                store<float, 4>(p.dx + n * C + c, to[r][k]);
                if (p.dbranch) store<Out, 4>(p.dbranch + n * C + c, to[r][k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
        const int64_t c = k * kBackwardColumns + 4 * static_cast<int64_t>(threadIdx.x);
        if (c >= C) break;
        float* mine = partial + 2 * blockIdx.x * C + c;
        store<float, 4>(mine, dgain[k]);
        store<float, 4>(mine + C, dbias[k]);
    }
}

// The same dx for rows of any length: a warp per row.
template <int kVec, class Out>
__global__ void __launch_bounds__(kRowsPerBlock* kWarp)
    norm_backward_kernel(const __grid_constant__ NormGradients<Out> p, int64_t N, int64_t C) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int64_t first = threadIdx.x % kWarp * kVec;
    const float centre = p.mean ? p.mean[n] : 0.0f, scale = p.rstd[n];
    float sum_g = 0, sum_g_xhat = 0;
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        const auto d = load<Out, kVec>(p.dout + n * C + c);
        const auto gains = load<float, kVec>(p.gain + c), values = load<float, kVec>(p.x + n * C + c);
        for (int i = 0; i < kVec; ++i) {
            const float g = d.at[i] * gains.at[i];
            sum_g += g;
            sum_g_xhat += g * ((values.at[i] - centre) * scale);
        }
    }
    const float mean_g = p.mean ? warp_sum(sum_g) / static_cast<float>(C) : 0.0f;
    const float mean_g_xhat = warp_sum(sum_g_xhat) / static_cast<float>(C);
    for (int64_t c = first; c < C; c += kWarp * kVec) {
        const auto d = load<Out, kVec>(p.dout + n * C + c);
        const auto gains = load<float, kVec>(p.gain + c), values = load<float, kVec>(p.x + n * C + c);
        auto to = p.adds ? load<float, kVec>(p.dx + n * C + c) : Pack<float, kVec>{};
        for (int i = 0; i < kVec; ++i) {
            const float xhat = (values.at[i] - centre) * scale;
            to.at[i] += scale * (d.at[i] * gains.at[i] - mean_g - xhat * mean_g_xhat);
        }
        store<float, kVec>(p.dx + n * C + c, to);
        if (p.dbranch) store<Out, kVec>(p.dbranch + n * C + c, to);
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

// Whether rows and the gains and biases beside them can be read four at a time. One row has no neighbour, so a vector's
// row stride says nothing.
bool fours(int64_t C, std::initializer_list<const Tensor*> rows, std::initializer_list<Tensor> vectors) {
    for (const Tensor& v : vectors)
        if (reinterpret_cast<uintptr_t>(v.data) % 16) return false;
    return cuda::fours(C, rows);
}

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

// As few packs a thread as the row needs, and as many rows at a time as keep four packs in flight.
template <class F>
void by_packs(int64_t C, F&& f) {
    if (C <= kBackwardColumns) return f.template operator()<1, 4>();
    if (C <= 2 * kBackwardColumns) return f.template operator()<2, 2>();
    if (C <= 4 * kBackwardColumns) return f.template operator()<4, 1>();
    f.template operator()<8, 1>();
}

template <class Out>
void backward_by_ranges(const NormGradients<Out>& p, float* dgain, float* dbias, int64_t N, int64_t C, Write write,
                        const Exec& exec) {
    float* partial = exec.cuda->workspace<float>(2 * kBackwardRanges * C);
    by_packs(C, [&]<int kPacks, int kRows>() {
        PLIMSOLL_LAUNCH((norm_backward_rows_kernel<kPacks, kRows, Out>), dim3(kBackwardRanges), dim3(kBackwardThreads),
                        0, exec.cuda->stream(), partial, p, N, C);
    });
    fold_ranges(dgain, partial, 2 * C, kBackwardRanges, C, write, exec);
    if (dbias) fold_ranges(dbias, partial + C, 2 * C, kBackwardRanges, C, write, exec);
    launch_check("norm_backward");
}

}  // namespace

void norm_forward(Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor gain, Tensor bias, NormSpec spec,
                  const Exec& exec) {
    dispatch_device_float(out.dtype, [&]<class Out>() {
        const NormPointers<Out, float> p{out.ptr<Out>(),    optional<float>(mean), rstd.ptr<float>(),
                                         nullptr,           x.ptr<float>(),        nullptr,
                                         gain.ptr<float>(), optional<float>(bias)};
        launch_forward<false>(p, x.shape[0], x.shape[1], spec.eps, fours(x.shape[1], {&out, &x}, {gain, bias}), exec);
    });
}

void residual_norm_forward(Tensor sum, Tensor out, Tensor mean, Tensor rstd, Tensor x, Tensor branch, Tensor gain,
                           Tensor bias, NormSpec spec, const Exec& exec) {
    const bool vectors = fours(x.shape[1], {&sum, &out, &x, &branch}, {gain, bias});
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
                   NormSpec spec, Write dx_write, Write write, const Exec& exec) {
    cuda::residual_norm_backward(dx, {}, dgain, dbias, dout, x, gain, mean, rstd, spec, dx_write, write, exec);
}

void residual_norm_backward(Tensor dx, Tensor dbranch, Tensor dgain, Tensor dbias, Tensor dout, Tensor sum, Tensor gain,
                            Tensor mean, Tensor rstd, NormSpec /*spec*/, Write dx_write, Write write,
                            const Exec& exec) {
    const int64_t N = sum.shape[0], C = sum.shape[1];
    const bool vectors = fours(C, {&dx, &dbranch, &dout, &sum}, {gain});
    dispatch_device_float(dout.dtype, [&]<class Out>() {
        const NormGradients<Out> p{
            dx.ptr<float>(),   optional<Out>(dbranch), dout.ptr<Out>(),   sum.ptr<float>(),
            gain.ptr<float>(), optional<float>(mean),  rstd.ptr<float>(), dx_write == Write::kAccumulate};
        if (vectors && C >= kFewestColumns && C <= kMostColumns)
            return backward_by_ranges(p, dgain.ptr<float>(), optional<float>(dbias), N, C, write, exec);
        if (N > 0) {
            const dim3 grid(blocks_for(N, kRowsPerBlock)), block(kRowsPerBlock * kWarp);
            by_vectors(vectors, [&]<int kVec>() {
                PLIMSOLL_LAUNCH((norm_backward_kernel<kVec, Out>), grid, block, 0, exec.cuda->stream(), p, N, C);
            });
            launch_check("norm_backward");
        }
        row_sums(dgain.ptr<float>(), GainTerm<Out>{p.dout, p.x, p.mean, p.rstd, C}, N, C, write, exec);
        if (dbias) row_sums(dbias.ptr<float>(), Element<Out>{p.dout, C}, N, C, write, exec);
    });
}

}  // namespace plimsoll::cuda
