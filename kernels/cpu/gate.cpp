#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {

void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec) {
    const int64_t N = y.shape[0], width = y.shape[1] * y.shape[2];
    dispatch_float(y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (N * width > 20000)
        for (int64_t n = 0; n < N; ++n) {
            T* to = out.ptr<T>() + n * out.row_stride;
            const T* from = y.ptr<T>() + n * y.row_stride;
            const T* gate = z.ptr<T>() + n * z.row_stride;
#pragma omp simd
            for (int64_t c = 0; c < width; ++c)
                store(to[c], static_cast<R>(from[c]) * sigmoid_fast(static_cast<R>(gate[c])));
        }
    });
}

void head_gate_forward(Tensor out, Tensor gate, const Exec& exec) {
    const int64_t N = out.shape[0], NH = out.shape[1], HS = out.shape[2];
    dispatch_float(out.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * NH * HS))
        for (int64_t n = 0; n < N; ++n)
            for (int64_t h = 0; h < NH; ++h) {
                T* to = out.ptr<T>() + n * out.row_stride + h * HS;
                const R open = sigmoid_fast(static_cast<R>(gate.ptr<T>()[n * NH + h]));
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) store(to[c], static_cast<R>(to[c]) * open);
            }
    });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec) {
    const int64_t N = y.shape[0], width = y.shape[1] * y.shape[2];
    dispatch_float(y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (N * width > 20000)
        for (int64_t n = 0; n < N; ++n) {
            T* to = dy.ptr<T>() + n * dy.row_stride;
            T* dgate = dz.ptr<T>() + n * dz.row_stride;
            const T* d = dout.ptr<T>() + n * dout.row_stride;
            const T* from = y.ptr<T>() + n * y.row_stride;
            const T* gate = z.ptr<T>() + n * z.row_stride;
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
                const R g = sigmoid_fast(static_cast<R>(gate[c])), dc = static_cast<R>(d[c]);
                store(dgate[c], dc * static_cast<R>(from[c]) * g * (R(1) - g));
                store(to[c], dc * g);
            }
        }
    });
}

}  // namespace plimsoll::cpu
