// The gate behind core attention, one per element.
#include "kernels/attention.h"
#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

template <int kVec, class T>
__global__ void __launch_bounds__(kThreads) gate_forward_kernel(T* out, const T* y, const T* z, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    auto values = load<T, kVec>(y + i);
    const auto gates = load<T, kVec>(z + i);
    for (int k = 0; k < kVec; ++k) values.at[k] *= sigmoid(gates.at[k]);
    store<T, kVec>(out + i, values);
}

// A thread writes dy where only it has read dout: dy may be dout.
template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    gate_backward_kernel(T* dy, T* dz, const T* dout, const T* y, const T* z, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    auto d = load<T, kVec>(dout + i), slope = load<T, kVec>(y + i);
    const auto gates = load<T, kVec>(z + i);
    for (int k = 0; k < kVec; ++k) {
        const float g = sigmoid(gates.at[k]);
        slope.at[k] *= d.at[k] * g * (1.0f - g);
        d.at[k] *= g;
    }
    store<T, kVec>(dz + i, slope);
    store<T, kVec>(dy + i, d);
}

}  // namespace

void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec) {
    const int64_t count = y.elements();
    if (count == 0) return;
    dispatch_device_float(y.dtype, [&]<class T>() {
        by_vectors(fours(count, {&out, &y, &z}), [&]<int kVec>() {
            PLIMSOLL_LAUNCH((gate_forward_kernel<kVec, T>), dim3(blocks_for(count, kVec * kThreads)), dim3(kThreads), 0,
                            exec.cuda->stream(), out.ptr<T>(), y.ptr<T>(), z.ptr<T>(), count);
        });
        launch_check("gate_forward");
    });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec) {
    const int64_t count = y.elements();
    if (count == 0) return;
    dispatch_device_float(y.dtype, [&]<class T>() {
        by_vectors(fours(count, {&dy, &dz, &dout, &y, &z}), [&]<int kVec>() {
            PLIMSOLL_LAUNCH((gate_backward_kernel<kVec, T>), dim3(blocks_for(count, kVec * kThreads)), dim3(kThreads),
                            0, exec.cuda->stream(), dy.ptr<T>(), dz.ptr<T>(), dout.ptr<T>(), y.ptr<T>(), z.ptr<T>(),
                            count);
        });
        launch_check("gate_backward");
    });
}

}  // namespace plimsoll::cuda
