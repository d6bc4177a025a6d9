// The gate behind core attention, one per element or one per head.
#include "kernels/attention_tasks.h"
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

// out (N, NH, HS), gate (N, NH).
template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    head_gate_forward_kernel(T* out, int64_t row_stride, const T* gate, int64_t count, int NH, int HS) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    const int64_t head = i / HS;
    T* to = out + head / NH * row_stride + head % NH * HS + i % HS;
    const float open = sigmoid(static_cast<float>(gate[head]));
    auto values = load<T, kVec>(to);
    for (int k = 0; k < kVec; ++k) values.at[k] *= open;
    store<T, kVec>(to, values);
}

}  // namespace

void head_gate_forward(Tensor out, Tensor gate, const Exec& exec) {
    const int64_t count = out.elements(), NH = out.shape[1], HS = out.shape[2];
    if (count == 0) return;
    dispatch_device_float(out.dtype, [&]<class T>() {
        by_vectors(fours(HS, {&out}), [&]<int kVec>() {
            PLIMSOLL_LAUNCH((head_gate_forward_kernel<kVec, T>), dim3(blocks_for(count, kVec * kThreads)),
                            dim3(kThreads), 0, exec.cuda->stream(), out.ptr<T>(), out.row_stride, gate.ptr<T>(), count,
                            static_cast<int>(NH), static_cast<int>(HS));
        });
        launch_check("head_gate_forward");
    });
}

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
