// Kernels of queries and keys: a thread per element.
#include "kernels/feature_map.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

// Rows of `width` elements that lie a stride apart.
template <class T>
struct Strided {
    T* data;
    int64_t row_stride, width;

    PLIMSOLL_DEVICE T& at(int64_t i) const { return data[i / width * row_stride + i % width]; }
};
template <class T>
Strided<T> strided(const Tensor& t) {
    return {t.ptr<std::remove_const_t<T>>(), t.row_stride, t.row_elements()};
}

template <class T>
__global__ void __launch_bounds__(kThreads) elu1_forward_kernel(Strided<T> out, Strided<const T> x, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const float value = static_cast<float>(x.at(i));
    out.at(i) = static_cast<T>(value > 0 ? value + 1.0f : DeviceMath::exp(value));
}

// A thread writes dx where only it has read dout: dx may be dout.
template <class T>
__global__ void __launch_bounds__(kThreads)
    elu1_backward_kernel(Strided<T> dx, Strided<const T> dout, Strided<const T> out, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const float value = static_cast<float>(out.at(i));
    dx.at(i) = static_cast<T>(static_cast<float>(dout.at(i)) * (value > 1 ? 1.0f : value));
}

}  // namespace

void elu1_forward(Tensor out, Tensor x, const Exec& exec) {
    const int64_t count = x.elements();
    if (count == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(elu1_forward_kernel<T>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0,
                        exec.cuda->stream(), strided<T>(out), strided<const T>(x), count);
        launch_check("elu1_forward");
    });
}

void elu1_backward(Tensor dx, Tensor dout, Tensor out, const Exec& exec) {
    const int64_t count = out.elements();
    if (count == 0) return;
    dispatch_device_float(out.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(elu1_backward_kernel<T>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0,
                        exec.cuda->stream(), strided<T>(dx), strided<const T>(dout), strided<const T>(out), count);
        launch_check("elu1_backward");
    });
}

}  // namespace plimsoll::cuda
