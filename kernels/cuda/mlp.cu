// Activation functions.
#include "kernels/mlp.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

struct Relu {
    PLIMSOLL_DEVICE static float value(float x) { return x > 0 ? x : 0.0f; }
    PLIMSOLL_DEVICE static float slope(float x) { return x > 0 ? 1.0f : 0.0f; }
};

// 0.5 (1 + tanh u) = sigmoid(2u): one exponential, and no cancellation where x is negative.
struct Gelu {
    static constexpr float kRoot = 2 * 0.79788456f;  // 2 sqrt(2 / pi)
    static constexpr float kCubic = 0.044715f;
    PLIMSOLL_DEVICE static float weight(float x) { return sigmoid(x * (kRoot + kRoot * kCubic * (x * x))); }
    PLIMSOLL_DEVICE static float value(float x) { return x * weight(x); }
    PLIMSOLL_DEVICE static float slope(float x) {
        const float w = weight(x);
        return w + x * ((w - w * w) * (kRoot + 3 * kRoot * kCubic * (x * x)));
    }
};

template <int kVec, class Function, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(T* out, const T* x, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    auto values = load<T, kVec>(x + i);
    for (int k = 0; k < kVec; ++k) values.at[k] = Function::value(values.at[k]);
    store<T, kVec>(out + i, values);
}

template <int kVec, class Function, class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(T* dx, const T* dout, const T* x, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    auto values = load<T, kVec>(x + i);
    const auto d = load<T, kVec>(dout + i);
    for (int k = 0; k < kVec; ++k) values.at[k] = d.at[k] * Function::slope(values.at[k]);
    store<T, kVec>(dx + i, values);
}

// x (N, 2F) = [gate | up];  out = gate sigmoid(gate) up.
template <int kVec, class T>
__global__ void __launch_bounds__(kThreads) swiglu_forward_kernel(T* out, const T* x, int64_t N, int64_t F) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= N * F) return;
    const T* gates = x + i / F * 2 * F + i % F;
    const auto gate = load<T, kVec>(gates), up = load<T, kVec>(gates + F);
    Pack<float, kVec> result;
    for (int k = 0; k < kVec; ++k) result.at[k] = gate.at[k] * sigmoid(gate.at[k]) * up.at[k];
    store<T, kVec>(out + i, result);
}

template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    swiglu_backward_kernel(T* dx, const T* dout, const T* x, int64_t N, int64_t F) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= N * F) return;
    const int64_t at = i / F * 2 * F + i % F;
    const auto gate = load<T, kVec>(x + at), up = load<T, kVec>(x + at + F), d = load<T, kVec>(dout + i);
    Pack<float, kVec> dgate, dup;
    for (int k = 0; k < kVec; ++k) {
        const float s = sigmoid(gate.at[k]);
        dup.at[k] = d.at[k] * gate.at[k] * s;
        dgate.at[k] = d.at[k] * up.at[k] * (s + gate.at[k] * (s - s * s));
    }
    store<T, kVec>(dx + at, dgate);
    store<T, kVec>(dx + at + F, dup);
}

}  // namespace

void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = out.shape[0], F = out.shape[1];
    const cudaStream_t stream = exec.cuda->stream();
    if (N * F == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        by_vectors(fours(F, {&out, &x}), [&]<int kVec>() {
            const dim3 grid(blocks_for(N * F, kVec * kThreads));
            T* to = out.ptr<T>();
            const T* from = x.ptr<T>();
            if (kind == Activation::kSwiglu)
                PLIMSOLL_LAUNCH((swiglu_forward_kernel<kVec, T>), grid, dim3(kThreads), 0, stream, to, from, N, F);
            else if (kind == Activation::kGelu)
                PLIMSOLL_LAUNCH((forward_kernel<kVec, Gelu, T>), grid, dim3(kThreads), 0, stream, to, from, N * F);
            else
                PLIMSOLL_LAUNCH((forward_kernel<kVec, Relu, T>), grid, dim3(kThreads), 0, stream, to, from, N * F);
        });
        launch_check("activation");
    });
}

void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = dout.shape[0], F = dout.shape[1];
    const cudaStream_t stream = exec.cuda->stream();
    if (N * F == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        by_vectors(fours(F, {&dx, &dout, &x}), [&]<int kVec>() {
            const dim3 grid(blocks_for(N * F, kVec * kThreads));
            T* to = dx.ptr<T>();
            const T *d = dout.ptr<T>(), *from = x.ptr<T>();
            if (kind == Activation::kSwiglu)
                PLIMSOLL_LAUNCH((swiglu_backward_kernel<kVec, T>), grid, dim3(kThreads), 0, stream, to, d, from, N, F);
            else if (kind == Activation::kGelu)
                PLIMSOLL_LAUNCH((backward_kernel<kVec, Gelu, T>), grid, dim3(kThreads), 0, stream, to, d, from, N * F);
            else
                PLIMSOLL_LAUNCH((backward_kernel<kVec, Relu, T>), grid, dim3(kThreads), 0, stream, to, d, from, N * F);
        });
        launch_check("activation");
    });
}

}  // namespace plimsoll::cuda
