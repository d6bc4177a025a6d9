// RMSNorm of queries and keys: a warp per head of a token.
#include "kernels/qk_norm.h"

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    qk_norm_forward_kernel(Heads<T> out, float* rstd, Heads<const T> x, const float* gain, int64_t heads, float eps) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const T* from = x.head(index);
    T* to = out.head(index);
    float squares = 0;
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp)
        squares += static_cast<float>(from[c]) * static_cast<float>(from[c]);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(x.HS) + eps);
    if (threadIdx.x % kWarp == 0) rstd[index] = scale;
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp)
        to[c] = static_cast<T>(static_cast<float>(from[c]) * scale * gain[c]);
}

// dx = rstd (g - xhat mean(g xhat)), g = dout gain. A lane writes what only it has read: dx may be dout.
template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    qk_norm_backward_kernel(Heads<T> dx, Heads<const T> dout, Heads<const T> x, const float* gain, const float* rstd,
                            int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const T *from = x.head(index), *grad = dout.head(index);
    T* to = dx.head(index);
    const float scale = rstd[index];
    float sum = 0;
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp)
        sum += static_cast<float>(grad[c]) * gain[c] * (static_cast<float>(from[c]) * scale);
    const float mean = warp_sum(sum) / static_cast<float>(x.HS);
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp) {
        const float xhat = static_cast<float>(from[c]) * scale;
        to[c] = static_cast<T>(scale * (static_cast<float>(grad[c]) * gain[c] - xhat * mean));
    }
}

// dgain's term: dout xhat, a row per head.
template <class T>
struct HeadGainTerm {
    Heads<const T> dout, x;
    const float* rstd;

    PLIMSOLL_DEVICE float operator()(int64_t index, int64_t c) const {
        return static_cast<float>(dout.head(index)[c]) * (static_cast<float>(x.head(index)[c]) * rstd[index]);
    }
};

}  // namespace

void qk_norm_forward(Tensor out, Tensor rstd, Tensor x, Tensor gain, double eps, const Exec& exec) {
    const int64_t heads = x.shape[0] * x.shape[1];
    if (heads == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(qk_norm_forward_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(out), rstd.ptr<float>(), heads_of<const T>(x), gain.ptr<float>(), heads,
                        static_cast<float>(eps));
        launch_check("qk_norm_forward");
    });
}

void qk_norm_backward(Tensor dx, Tensor dgain, Tensor dout, Tensor x, Tensor gain, Tensor rstd, Write write,
                      const Exec& exec) {
    const int64_t heads = x.shape[0] * x.shape[1];
    dispatch_device_float(x.dtype, [&]<class T>() {
        // First dgain, which reads dout: dx may be its memory.
        row_sums(dgain.ptr<float>(), HeadGainTerm<T>{heads_of<const T>(dout), heads_of<const T>(x), rstd.ptr<float>()},
                 heads, x.shape[2], write, exec);
        if (heads == 0) return;
        PLIMSOLL_LAUNCH(qk_norm_backward_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(dx), heads_of<const T>(dout), heads_of<const T>(x), gain.ptr<float>(),
                        rstd.ptr<float>(), heads);
        launch_check("qk_norm_backward");
    });
}

}  // namespace plimsoll::cuda
