// The gate behind core attention: a warp per head of a token.
#include "kernels/attention.h"
#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kHeadsPerBlock = 4;

template <bool kPerHead, class T>
__global__ void __launch_bounds__(kHeadsPerBlock* kWarp)
    gate_forward_kernel(T* out, const T* y, const T* z, int64_t heads, int64_t HS) {
    const int64_t head = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
    if (head >= heads) return;
    for (int64_t c = threadIdx.x % kWarp; c < HS; c += kWarp) {
        const int64_t i = head * HS + c;
        out[i] = static_cast<T>(static_cast<float>(y[i]) * sigmoid(static_cast<float>(z[kPerHead ? head : i])));
    }
}

// A lane writes dy where only it has read dout: dy may be dout.
template <bool kPerHead, class T>
__global__ void __launch_bounds__(kHeadsPerBlock* kWarp)
    gate_backward_kernel(T* dy, T* dz, const T* dout, const T* y, const T* z, int64_t heads, int64_t HS) {
    const int64_t head = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
    if (head >= heads) return;
    float sum = 0;
    for (int64_t c = threadIdx.x % kWarp; c < HS; c += kWarp) {
        const int64_t i = head * HS + c;
        const float g = sigmoid(static_cast<float>(z[kPerHead ? head : i])), d = static_cast<float>(dout[i]);
        const float slope = d * static_cast<float>(y[i]) * g * (1.0f - g);
        if constexpr (kPerHead)
            sum += slope;
        else
            dz[i] = static_cast<T>(slope);
        dy[i] = static_cast<T>(d * g);
    }
    if constexpr (kPerHead) {
        sum = warp_sum(sum);
        if (threadIdx.x % kWarp == 0) dz[head] = static_cast<T>(sum);
    }
}

}  // namespace

void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec) {
    const int64_t heads = y.shape[0] * y.shape[1], HS = y.shape[2];
    if (heads == 0) return;
    const dim3 grid(blocks_for(heads, kHeadsPerBlock)), block(kHeadsPerBlock * kWarp);
    dispatch_device_float(y.dtype, [&]<class T>() {
        if (z.shape.rank() == 2)
            PLIMSOLL_LAUNCH((gate_forward_kernel<true, T>), grid, block, 0, exec.cuda->stream(), out.ptr<T>(),
                            y.ptr<T>(), z.ptr<T>(), heads, HS);
        else
            PLIMSOLL_LAUNCH((gate_forward_kernel<false, T>), grid, block, 0, exec.cuda->stream(), out.ptr<T>(),
                            y.ptr<T>(), z.ptr<T>(), heads, HS);
        launch_check("gate_forward");
    });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec) {
    const int64_t heads = y.shape[0] * y.shape[1], HS = y.shape[2];
    if (heads == 0) return;
    const dim3 grid(blocks_for(heads, kHeadsPerBlock)), block(kHeadsPerBlock * kWarp);
    dispatch_device_float(y.dtype, [&]<class T>() {
        if (z.shape.rank() == 2)
            PLIMSOLL_LAUNCH((gate_backward_kernel<true, T>), grid, block, 0, exec.cuda->stream(), dy.ptr<T>(),
                            dz.ptr<T>(), dout.ptr<T>(), y.ptr<T>(), z.ptr<T>(), heads, HS);
        else
            PLIMSOLL_LAUNCH((gate_backward_kernel<false, T>), grid, block, 0, exec.cuda->stream(), dy.ptr<T>(),
                            dz.ptr<T>(), dout.ptr<T>(), y.ptr<T>(), z.ptr<T>(), heads, HS);
        launch_check("gate_backward");
    });
}

}  // namespace plimsoll::cuda
