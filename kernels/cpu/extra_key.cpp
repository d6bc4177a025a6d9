#include "kernels/extra_key.h"

#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/heads.h"
#include "kernels/cpu/row_slots.h"

namespace plimsoll::cpu {
namespace {

// The row of head h in (NH, HS) or (1, HS).
template <class R>
const R* of_head(const Tensor& t, int64_t h) {
    return t.ptr<R>() + (t.shape[0] == 1 ? 0 : h) * t.shape[1];
}

}  // namespace

void extra_key_forward(const AttentionTensors& t, const ExtraKey& key, double scale, const Exec& exec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1], HS = t.q.shape[2];
    dispatch_float(t.q.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, NH, N * NH * HS, exec, [&](int64_t n, int64_t h) {
            const T* q = head_row<T>(t.q, n, h);
            const R* k = of_head<R>(key.k, h);
            const R e = static_cast<R>(scale) * lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(q[c]) * k[c]; });
            key.score.ptr<R>()[n * NH + h] = e;
            R& lse = t.lse.ptr<R>()[h * N + n];
            const R top = std::max(lse, e), of_keys = exp_fast(lse - top), of_extra = exp_fast(e - top);
            const R whole = of_keys + of_extra, kept = of_keys / whole;
            const R weight = of_extra / whole * gate_of<T>(t.gate, n, h);
            lse = top + std::log(whole);
            T* out = head_row<T>(t.out, n, h);
            if (key.v) {
                const R* v = of_head<R>(key.v, h);
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) store(out[c], static_cast<R>(out[c]) * kept + weight * v[c]);
            } else {
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) store(out[c], static_cast<R>(out[c]) * kept);
            }
        });
    });
}

void extra_key_backward(const ExtraKey& d, Tensor dout, const AttentionTensors& t, const ExtraKey& key, double scale,
                        Write write, const Exec& exec) {
    const int64_t N = t.q.shape[0], NH = t.q.shape[1], HS = t.q.shape[2], each = key.k.elements();
    dispatch_float(t.q.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        const R* const sums =
            sum_rows<R>(N, NH, key.v ? 2 * each : each, N * NH * HS, exec, [&](int64_t n, int64_t h, R* own) {
                prefetch_head_row<T>(t.q, n + 2, h);  // nobody has read it since forward
                const T *grad = head_row<T>(dout, n, h), *out = head_row<T>(t.out, n, h), *q = head_row<T>(t.q, n, h);
                const R w = exp_fast(key.score.ptr<R>()[n * NH + h] - t.lse.ptr<R>()[h * N + n]);
                const R gw = w * gate_of<T>(t.gate, n, h);
                const int64_t at = key.k.shape[0] == 1 ? 0 : h * HS;
                const auto with_grad = [&](const auto* x) {
                    return lane_sum<R>(HS, [&](int64_t c) { return static_cast<R>(grad[c]) * static_cast<R>(x[c]); });
                };
                R ds = -w * with_grad(out);
                if (key.v) {
                    ds += gw * with_grad(of_head<R>(key.v, h));
#pragma omp simd
                    for (int64_t c = 0; c < HS; ++c) own[each + at + c] += gw * static_cast<R>(grad[c]);
                }
                d.score.ptr<R>()[n * NH + h] = ds;
                const R scaled = static_cast<R>(scale) * ds;
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) own[at + c] += scaled * static_cast<R>(q[c]);
            });
        write_sums(d.k, sums, write);
        if (key.v) write_sums(d.v, sums + each, write);
    });
}

void extra_key_backward_query(Tensor dq, Tensor dscore, Tensor k, double scale, const Exec& exec) {
    const int64_t N = dq.shape[0], NH = dq.shape[1], HS = dq.shape[2];
    dispatch_float(dq.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, NH, N * NH * HS, exec, [&](int64_t n, int64_t h) {
            T* to = head_row<T>(dq, n, h);
            const R* key = of_head<R>(k, h);
            const R scaled = static_cast<R>(scale) * dscore.ptr<R>()[n * NH + h];
#pragma omp simd
            for (int64_t c = 0; c < HS; ++c) store(to[c], static_cast<R>(to[c]) + scaled * key[c]);
        });
    });
}

void head_bias_forward(Tensor out, Tensor x, Tensor bias, const Exec& exec) {
    const int64_t N = x.shape[0], NH = x.shape[1], HS = x.shape[2];
    dispatch_float(x.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        for_each_head(N, NH, N * NH * HS, exec, [&](int64_t n, int64_t h) {
            T* to = head_row<T>(out, n, h);
            const T* from = head_row<T>(x, n, h);
            const R* add = of_head<R>(bias, h);
#pragma omp simd
            for (int64_t c = 0; c < HS; ++c) store(to[c], static_cast<R>(from[c]) + add[c]);
        });
    });
}

void head_bias_backward(Tensor dbias, Tensor dout, Write write, const Exec& exec) {
    const int64_t N = dout.shape[0], NH = dout.shape[1], HS = dout.shape[2];
    dispatch_float(dout.dtype, [&]<class T>() {
        using R = Accumulator<T>;
        const R* const sums =
            sum_rows<R>(N, NH, dbias.elements(), N * NH * HS, exec, [&](int64_t n, int64_t h, R* own) {
                const T* grad = head_row<T>(dout, n, h);
                R* const to = own + (dbias.shape[0] == 1 ? 0 : h * HS);
#pragma omp simd
                for (int64_t c = 0; c < HS; ++c) to[c] += static_cast<R>(grad[c]);
            });
        write_sums(dbias, sums, write);
    });
}

}  // namespace plimsoll::cpu
