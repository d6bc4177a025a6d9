#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

template <class R>
inline R sigmoid(R z) {
    return R(1) / (R(1) + exp_fast(-z));
}

}  // namespace

void gate_forward(Tensor out, Tensor y, Tensor z, const Exec& exec) {
    const int64_t N = y.shape[0], NH = y.shape[1], HS = y.shape[2];
    const bool per_head = z.shape.rank() == 2;
    dispatch_float(y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (N * NH * HS > 20000)
        for (int64_t n = 0; n < N; ++n) {
            T* to = out.ptr<T>() + n * out.row_stride;
            const T* from = y.ptr<T>() + n * y.row_stride;
            const T* gate = z.ptr<T>() + n * z.row_stride;
            if (per_head) {
                for (int64_t h = 0; h < NH; ++h) {
                    const R g = sigmoid(static_cast<R>(gate[h]));
#pragma omp simd
                    for (int64_t c = h * HS; c < (h + 1) * HS; ++c) store(to[c], static_cast<R>(from[c]) * g);
                }
            } else {
#pragma omp simd
                for (int64_t c = 0; c < NH * HS; ++c)
                    store(to[c], static_cast<R>(from[c]) * sigmoid(static_cast<R>(gate[c])));
            }
        }
    });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, const Exec& exec) {
    const int64_t N = y.shape[0], NH = y.shape[1], HS = y.shape[2];
    const bool per_head = z.shape.rank() == 2;
    dispatch_float(y.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (N * NH * HS > 20000)
        for (int64_t n = 0; n < N; ++n) {
            T* to = dy.ptr<T>() + n * dy.row_stride;
            T* dgate = dz.ptr<T>() + n * dz.row_stride;
            const T* d = dout.ptr<T>() + n * dout.row_stride;
            const T* from = y.ptr<T>() + n * y.row_stride;
            const T* gate = z.ptr<T>() + n * z.row_stride;
            if (per_head) {
                for (int64_t h = 0; h < NH; ++h) {
                    const R g = sigmoid(static_cast<R>(gate[h]));
                    const T *dh = d + h * HS, *yh = from + h * HS;
                    const R sum =
                        lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(dh[c]) * static_cast<R>(yh[c]); });
                    store(dgate[h], sum * g * (R(1) - g));
#pragma omp simd
                    for (int64_t c = 0; c < HS; ++c) store(to[h * HS + c], static_cast<R>(dh[c]) * g);
                }
            } else {
#pragma omp simd
                for (int64_t c = 0; c < NH * HS; ++c) {
                    const R g = sigmoid(static_cast<R>(gate[c])), dc = static_cast<R>(d[c]);
                    store(dgate[c], dc * static_cast<R>(from[c]) * g * (R(1) - g));
                    store(to[c], dc * g);
                }
            }
        }
    });
}

}  // namespace plimsoll::cpu
