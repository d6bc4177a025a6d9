#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// f(x) and f'(x) of the activations with one input.
struct Relu {
    template <class R>
    static R value(R x) {
        return x > 0 ? x : R(0);
    }
    template <class R>
    static R slope(R x) {
        return x > 0 ? R(1) : R(0);
    }
};

// 0.5 (1 + tanh u) = sigmoid(2u): one exponential, and no cancellation where x is negative.
struct Gelu {
    static constexpr double kRoot = 2 * 0.79788456080286536;  // 2 sqrt(2 / pi)
    static constexpr double kCubic = 0.044715;
    template <class R>
    static R weight(R x) {
        return sigmoid_fast(x * (R(kRoot) + R(kRoot * kCubic) * (x * x)));
    }
    template <class R>
    static R value(R x) {
        return x * weight(x);
    }
    template <class R>
    static R slope(R x) {
        const R w = weight(x);
        return w + x * ((w - w * w) * (R(kRoot) + R(3 * kRoot * kCubic) * (x * x)));
    }
};

template <class Function, class T>
void forward(T* out, const T* x, int64_t N, int64_t F, int threads) {
    using R = Accumulator<T>;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * F))
    for (int64_t n = 0; n < N; ++n) {
        const T* from = x + n * F;
        T* to = out + n * F;
#pragma omp simd
        for (int64_t c = 0; c < F; ++c) store(to[c], Function::value(static_cast<R>(from[c])));
    }
}

template <class Function, class T>
void backward(T* dx, const T* dout, const T* x, int64_t N, int64_t F, int threads) {
    using R = Accumulator<T>;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * F))
    for (int64_t n = 0; n < N; ++n) {
        const T *from = x + n * F, *grad = dout + n * F;
        T* to = dx + n * F;
#pragma omp simd
        for (int64_t c = 0; c < F; ++c)
            store(to[c], static_cast<R>(grad[c]) * Function::slope(static_cast<R>(from[c])));
    }
}

template <class T>
void swiglu_forward(T* out, const T* x, int64_t N, int64_t F, int threads) {
    using R = Accumulator<T>;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * F))
    for (int64_t n = 0; n < N; ++n) {
        const T *gates = x + n * 2 * F, *ups = gates + F;
        T* to = out + n * F;
#pragma omp simd
        for (int64_t c = 0; c < F; ++c) {
            const R gate = static_cast<R>(gates[c]);
            store(to[c], gate * sigmoid_fast(gate) * static_cast<R>(ups[c]));
        }
    }
}

template <class T>
void swiglu_backward(T* dx, const T* dout, const T* x, int64_t N, int64_t F, int threads) {
    using R = Accumulator<T>;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * F))
    for (int64_t n = 0; n < N; ++n) {
        const T *gates = x + n * 2 * F, *ups = gates + F, *grad = dout + n * F;
        T *dgates = dx + n * 2 * F, *dups = dgates + F;
#pragma omp simd
        for (int64_t c = 0; c < F; ++c) {
            const R gate = static_cast<R>(gates[c]), up = static_cast<R>(ups[c]), d = static_cast<R>(grad[c]);
            const R weight = sigmoid_fast(gate);
            store(dgates[c], d * up * weight * (1 + gate * (1 - weight)));
            store(dups[c], d * gate * weight);
        }
    }
}

}  // namespace

void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = out.shape[0], F = out.shape[1];
    dispatch_float(x.dtype, [&]<class T>() {
        T* to = out.ptr<T>();
        const T* from = x.ptr<T>();
        switch (kind) {
            case Activation::kRelu:
                return forward<Relu>(to, from, N, F, exec.threads);
            case Activation::kGelu:
                return forward<Gelu>(to, from, N, F, exec.threads);
            case Activation::kSwiglu:
                return swiglu_forward(to, from, N, F, exec.threads);
        }
        check(false, "activation_forward: no kernel for activation {}", static_cast<int>(kind));
    });
}

void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = dout.shape[0], F = dout.shape[1];
    dispatch_float(x.dtype, [&]<class T>() {
        T* to = dx.ptr<T>();
        const T *grad = dout.ptr<T>(), *from = x.ptr<T>();
        switch (kind) {
            case Activation::kRelu:
                return backward<Relu>(to, grad, from, N, F, exec.threads);
            case Activation::kGelu:
                return backward<Gelu>(to, grad, from, N, F, exec.threads);
            case Activation::kSwiglu:
                return swiglu_backward(to, grad, from, N, F, exec.threads);
        }
        check(false, "activation_backward: no kernel for activation {}", static_cast<int>(kind));
    });
}

}  // namespace plimsoll::cpu
