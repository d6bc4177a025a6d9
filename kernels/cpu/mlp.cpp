#include "kernels/cpu/avx512_bf16/activations.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/in_lanes.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

// f(x) and f'(x) of the activations with one input, and their kernels for bf16 on AVX-512, or null.
struct Relu {
    static constexpr std::nullptr_t kInLanes = nullptr, kGradientInLanes = nullptr;
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
    static constexpr auto kInLanes = avx512_bf16::gelu_forward;
    static constexpr auto kGradientInLanes = avx512_bf16::gelu_backward;
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

// gate sigmoid(gate) up.
struct Swiglu {
    static constexpr auto kInLanes = avx512_bf16::swiglu_forward;
    static constexpr auto kGradientInLanes = avx512_bf16::swiglu_backward;
};

template <class Function, class T>
void forward_row(T* out, const T* x, int64_t F) {
    if (in_lanes<T>(Function::kInLanes, out, x, F)) return;
#pragma omp simd
    for (int64_t c = 0; c < F; ++c) store(out[c], Function::value(static_cast<Accumulator<T>>(x[c])));
}

template <class Function, class T>
void backward_row(T* dx, const T* dout, const T* x, int64_t F) {
    using R = Accumulator<T>;
    if (in_lanes<T>(Function::kGradientInLanes, dx, dout, x, F)) return;
#pragma omp simd
    for (int64_t c = 0; c < F; ++c) store(dx[c], static_cast<R>(dout[c]) * Function::slope(static_cast<R>(x[c])));
}

template <class T>
void swiglu_forward_row(T* out, const T* gates, const T* ups, int64_t F) {
    using R = Accumulator<T>;
    if (in_lanes<T>(Swiglu::kInLanes, out, gates, ups, F)) return;
#pragma omp simd
    for (int64_t c = 0; c < F; ++c) {
        const R gate = static_cast<R>(gates[c]);
        store(out[c], gate * sigmoid_fast(gate) * static_cast<R>(ups[c]));
    }
}

template <class T>
void swiglu_backward_row(T* dgates, T* dups, const T* dout, const T* gates, const T* ups, int64_t F) {
    using R = Accumulator<T>;
    if (in_lanes<T>(Swiglu::kGradientInLanes, dgates, dups, dout, gates, ups, F)) return;
#pragma omp simd
    for (int64_t c = 0; c < F; ++c) {
        const R gate = static_cast<R>(gates[c]), up = static_cast<R>(ups[c]), d = static_cast<R>(dout[c]);
        const R weight = sigmoid_fast(gate);
        store(dgates[c], d * up * weight * (1 + gate * (1 - weight)));
        store(dups[c], d * gate * weight);
    }
}

template <class T>
struct Rows {
    T* data;
    int64_t stride;
    explicit Rows(const Tensor& t) : data(t.ptr<std::remove_const_t<T>>()), stride(t.row_stride) {}
    T* operator[](int64_t n) const { return data + n * stride; }
};

// row(n) for every row, of F outputs each.
template <class Row>
void for_rows(int64_t N, int64_t F, int threads, Row&& row) {
    if (threads == 1) {  // inside others' regions, where a region of its own would cost as much as a few rows
        for (int64_t n = 0; n < N; ++n) row(n);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * F))
    for (int64_t n = 0; n < N; ++n) row(n);
}

}  // namespace

void activation_forward(Tensor out, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = out.shape[0], F = out.shape[1];
    dispatch_float(x.dtype, [&]<class T>() {
        const Rows<T> to(out);
        const Rows<const T> from(x);
        const auto run = [&](auto&& row) { for_rows(N, F, exec.threads, row); };
        switch (kind) {
            case Activation::kRelu:
                return run([&](int64_t n) { forward_row<Relu>(to[n], from[n], F); });
            case Activation::kGelu:
                return run([&](int64_t n) { forward_row<Gelu>(to[n], from[n], F); });
            case Activation::kSwiglu:
                return run([&](int64_t n) { swiglu_forward_row(to[n], from[n], from[n] + F, F); });
        }
        check(false, "activation_forward: no kernel for activation {}", static_cast<int>(kind));
    });
}

void activation_backward(Tensor dx, Tensor dout, Tensor x, Activation kind, const Exec& exec) {
    const int64_t N = dout.shape[0], F = dout.shape[1];
    dispatch_float(x.dtype, [&]<class T>() {
        const Rows<T> to(dx);
        const Rows<const T> grad(dout), from(x);
        const auto run = [&](auto&& row) { for_rows(N, F, exec.threads, row); };
        switch (kind) {
            case Activation::kRelu:
                return run([&](int64_t n) { backward_row<Relu>(to[n], grad[n], from[n], F); });
            case Activation::kGelu:
                return run([&](int64_t n) { backward_row<Gelu>(to[n], grad[n], from[n], F); });
            case Activation::kSwiglu:
                return run([&](int64_t n) { swiglu_backward_row(to[n], to[n] + F, grad[n], from[n], from[n] + F, F); });
        }
        check(false, "activation_backward: no kernel for activation {}", static_cast<int>(kind));
    });
}

}  // namespace plimsoll::cpu
