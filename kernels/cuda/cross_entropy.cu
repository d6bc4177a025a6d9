// Cross entropy over chunks of the vocabulary: a block per row.
#include "kernels/cross_entropy.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / kWarp;
constexpr float kNoLogit = -INFINITY;

// A running maximum and the sum of exponentials below it.
struct MaxSum {
    float max, sum;
};

PLIMSOLL_DEVICE MaxSum merge(MaxSum a, MaxSum b) {
    const float max = fmaxf(a.max, b.max);
    if (max == kNoLogit) return {max, a.sum + b.sum};  // nothing seen yet: both sums are 0, or NaN, which shows
    return {max, a.sum * DeviceMath::exp(a.max - max) + b.sum * DeviceMath::exp(b.max - max)};
}

PLIMSOLL_DEVICE MaxSum warp_merge(MaxSum value) {
    for (int offset = kWarp / 2; offset; offset /= 2) {
        const MaxSum other{__shfl_xor_sync(kAllLanes, value.max, offset),
                           __shfl_xor_sync(kAllLanes, value.sum, offset)};
        // The lower lane first, in both lanes: the same bits.
        value = threadIdx.x & offset ? merge(other, value) : merge(value, other);
    }
    return value;
}

__global__ void begin_kernel(float* max, float* sum, float* target_logit, int64_t N) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= N) return;
    max[n] = kNoLogit, sum[n] = 0;
    target_logit[n] = NAN;  // a scored row whose target's chunk is never seen must not look like a loss
}

// Takes a pack of logits in: one exponential per logit, and one more where the maximum grows.
template <int kVec>
PLIMSOLL_DEVICE void take(MaxSum& mine, const Pack<float, kVec>& logits) {
    float max = mine.max;
    for (int k = 0; k < kVec; ++k) max = fmaxf(max, logits.at[k]);
    const float shift = max == kNoLogit ? 0.0f : max;  // nothing but -inf so far: exp(-inf - 0) = 0, and a NaN shows
    if (max != mine.max) mine.sum *= DeviceMath::exp(mine.max - shift);
    mine.max = max;
    for (int k = 0; k < kVec; ++k) mine.sum += DeviceMath::exp(logits.at[k] - shift);
}

// The maximum and sum of a row behind those of `before`, in every thread of its block. Ends with a barrier.
template <int kVec, class T>
PLIMSOLL_DEVICE MaxSum row_max_sum(MaxSum before, const T* row, int64_t Vc) {
    PLIMSOLL_SHARED(MaxSum, warps, [kWarps]);
    PLIMSOLL_SHARED(MaxSum, total, [1]);
    MaxSum mine{kNoLogit, 0};
    for (int64_t c = threadIdx.x * kVec; c < Vc; c += kThreads * kVec) take(mine, load<T, kVec>(row + c));
    mine = warp_merge(mine);
    if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 0; w < kWarps; ++w) before = merge(before, warps[w]);
        total[0] = before;
    }
    __syncthreads();
    return total[0];
}

template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(float* max, float* sum, float* target_logit, const T* logits, int64_t row_stride, int64_t Vc,
                      int64_t v0, const int32_t* targets) {
    const int64_t n = blockIdx.x;
    const T* row = logits + n * row_stride;
    const MaxSum total = row_max_sum<kVec>({max[n], sum[n]}, row, Vc);
    if (threadIdx.x > 0) return;
    max[n] = total.max, sum[n] = total.sum;
    const int64_t target = targets[n] - v0;
    if (target >= 0 && target < Vc) target_logit[n] = static_cast<float>(row[target]);
}

__global__ void finish_kernel(float* nll, float* lse, const float* max, const float* sum, const float* target_logit,
                              const int32_t* targets, int64_t N) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (n >= N) return;
    const float log_sum = logf(sum[n]);
    lse[n] = max[n] + log_sum;
    // Not lse - target_logit: rounding lse would cost digits where logits are large.
    nll[n] = targets[n] < 0 ? 0.0f : (max[n] - target_logit[n]) + log_sum;
}

struct ThreadSums {
    double nll, squared_lse, scored;
};

// One block: each thread adds up every kThreads-th row, then thread 0 adds the threads' sums in order.
__global__ void __launch_bounds__(kThreads)
    sums_kernel(double* out, const float* nll, const float* lse, const int32_t* targets, int64_t N, bool add) {
    PLIMSOLL_SHARED(ThreadSums, sums, [kThreads]);
    ThreadSums mine{0, 0, 0};
    for (int64_t n = threadIdx.x; n < N; n += kThreads) {
        if (targets[n] < 0) continue;
        mine.nll += nll[n];
        mine.squared_lse += static_cast<double>(lse[n]) * lse[n];
        mine.scored += 1;
    }
    sums[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int t = 1; t < kThreads; ++t) {
        mine.nll += sums[t].nll;
        mine.squared_lse += sums[t].squared_lse;
        mine.scored += sums[t].scored;
    }
    out[0] = add ? out[0] + mine.nll : mine.nll;
    out[1] = add ? out[1] + mine.squared_lse : mine.squared_lse;
    out[2] = add ? out[2] + mine.scored : mine.scored;
}

// What a row's gradient is made of.
struct RowGradient {
    float lse, scale, factor;
    int64_t target;  // column
    bool scored;

    PLIMSOLL_DEVICE RowGradient(float lse, int32_t target, int64_t v0, float scale, float z_loss)
        : lse(lse),
          scale(scale),
          factor(scale * (1.0f + 2.0f * z_loss * lse)),
          target(target - v0),
          scored(target >= 0) {}
    // In place of the row, its end first: that is what a pass before has left in the caches.
    template <int kVec, class T>
    PLIMSOLL_DEVICE void replace(T* row, int64_t Vc) const {
        constexpr int64_t kStep = kThreads * kVec;
        for (int64_t c = (Vc - 1) / kStep * kStep + threadIdx.x * kVec; c >= 0; c -= kStep) {
            if (c >= Vc) continue;
            auto values = load<T, kVec>(row + c);
            for (int k = 0; k < kVec; ++k) {
                const float p = DeviceMath::exp(values.at[k] - lse) * factor;
                values.at[k] = scored ? (c + k == target ? p - scale : p) : 0.0f;
            }
            store<T, kVec>(row + c, values);
        }
    }
};

template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    gradient_kernel(T* logits, int64_t row_stride, int64_t Vc, int64_t v0, const float* lse, const int32_t* targets,
                    float scale, float z_loss) {
    const int64_t n = blockIdx.x;
    const RowGradient gradient(lse[n], targets[n], v0, scale, z_loss);
    gradient.replace<kVec>(logits + n * row_stride, Vc);
}

// One read and one write of memory: the second pass over a row finds it in the cache.
template <int kVec, class T>
__global__ void __launch_bounds__(kThreads) whole_kernel(float* nll, float* lse, T* logits, int64_t row_stride,
                                                         int64_t V, const int32_t* targets, float scale, float z_loss) {
    const int64_t n = blockIdx.x;
    const int32_t target = targets[n];
    T* row = logits + n * row_stride;
    // Taken before the row is overwritten, which happens behind a barrier.
    const float target_logit = threadIdx.x == 0 && target >= 0 && target < V ? static_cast<float>(row[target]) : NAN;
    const MaxSum total = row_max_sum<kVec>({kNoLogit, 0}, row, V);
    const float log_sum = logf(total.sum), row_lse = total.max + log_sum;
    if (threadIdx.x == 0) {
        lse[n] = row_lse;
        nll[n] = target < 0 ? 0.0f : (total.max - target_logit) + log_sum;
    }
    RowGradient(row_lse, target, 0, scale, z_loss).replace<kVec>(row, V);
}

// Calls f<T, kVec>() with as many logits as 16 bytes hold, or with one where rows do not allow it.
template <class F>
void by_packs(Tensor logits, F&& f) {
    dispatch_device_float(logits.dtype, [&]<class T>() {
        constexpr int kPack = 16 / sizeof(T);
        if (logits.shape[1] % kPack == 0 && logits.row_stride % kPack == 0 &&
            reinterpret_cast<uintptr_t>(logits.data) % 16 == 0)
            f.template operator()<T, kPack>();
        else
            f.template operator()<T, 1>();
    });
}

}  // namespace

void cross_entropy_begin(const CrossEntropyState& state, const Exec& exec) {
    const int64_t N = state.max.elements();
    if (N == 0) return;
    PLIMSOLL_LAUNCH(begin_kernel, dim3(blocks_for(N, 256)), dim3(256), 0, exec.cuda->stream(), state.max.ptr<float>(),
                    state.sum.ptr<float>(), state.target_logit.ptr<float>(), N);
    launch_check("cross_entropy_begin");
}

void cross_entropy_accumulate(const CrossEntropyState& state, Tensor logits, int64_t v0,
                              std::span<const int32_t> targets, const Exec& exec) {
    const int64_t N = logits.shape[0], Vc = logits.shape[1];
    if (N == 0) return;
    by_packs(logits, [&]<class T, int kVec>() {
        PLIMSOLL_LAUNCH((accumulate_kernel<kVec, T>), dim3(static_cast<unsigned>(N)), dim3(kThreads), 0,
                        exec.cuda->stream(), state.max.ptr<float>(), state.sum.ptr<float>(),
                        state.target_logit.ptr<float>(), logits.ptr<T>(), logits.row_stride, Vc, v0, targets.data());
    });
    launch_check("cross_entropy_accumulate");
}

void cross_entropy_finish(Tensor nll, Tensor lse, const CrossEntropyState& state, std::span<const int32_t> targets,
                          const Exec& exec) {
    const int64_t N = nll.elements();
    if (N == 0) return;
    PLIMSOLL_LAUNCH(finish_kernel, dim3(blocks_for(N, 256)), dim3(256), 0, exec.cuda->stream(), nll.ptr<float>(),
                    lse.ptr<float>(), state.max.ptr<float>(), state.sum.ptr<float>(), state.target_logit.ptr<float>(),
                    targets.data(), N);
    launch_check("cross_entropy_finish");
}

void cross_entropy_sums(Tensor sums, Tensor nll, Tensor lse, std::span<const int32_t> targets, Write write,
                        const Exec& exec) {
    PLIMSOLL_LAUNCH(sums_kernel, dim3(1), dim3(kThreads), 0, exec.cuda->stream(), sums.ptr<double>(), nll.ptr<float>(),
                    lse.ptr<float>(), targets.data(), nll.elements(), write == Write::kAccumulate);
    launch_check("cross_entropy_sums");
}

void cross_entropy_gradient(Tensor logits, int64_t v0, Tensor lse, std::span<const int32_t> targets, double scale,
                            double z_loss, const Exec& exec) {
    const int64_t N = logits.shape[0], Vc = logits.shape[1];
    if (N == 0) return;
    by_packs(logits, [&]<class T, int kVec>() {
        PLIMSOLL_LAUNCH((gradient_kernel<kVec, T>), dim3(static_cast<unsigned>(N)), dim3(kThreads), 0,
                        exec.cuda->stream(), logits.ptr<T>(), logits.row_stride, Vc, v0, lse.ptr<float>(),
                        targets.data(), static_cast<float>(scale), static_cast<float>(z_loss));
    });
    launch_check("cross_entropy_gradient");
}

void cross_entropy_whole(Tensor nll, Tensor lse, Tensor logits, const CrossEntropyState& /*state*/,
                         std::span<const int32_t> targets, double scale, double z_loss, const Exec& exec) {
    const int64_t N = logits.shape[0], V = logits.shape[1];
    if (N == 0) return;
    by_packs(logits, [&]<class T, int kVec>() {
        PLIMSOLL_LAUNCH((whole_kernel<kVec, T>), dim3(static_cast<unsigned>(N)), dim3(kThreads), 0, exec.cuda->stream(),
                        nll.ptr<float>(), lse.ptr<float>(), logits.ptr<T>(), logits.row_stride, V, targets.data(),
                        static_cast<float>(scale), static_cast<float>(z_loss));
    });
    launch_check("cross_entropy_whole");
}

}  // namespace plimsoll::cuda
