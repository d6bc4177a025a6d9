#include <algorithm>
#include <type_traits>

#include "kernels/cpu/avx512_bf16/gate_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"
#include "kernels/gate_function.h"

namespace plimsoll::cpu {
namespace {

// T: of y; Z: of z.
template <class Function, class Combination, class T, class Z>
class Gate {
    using R = Accumulator<T>;
    static constexpr bool kInLanes = std::is_same_v<T, bf16> && std::is_same_v<Z, bf16>;  // has a twin on AVX-512

  public:
    Gate(Tensor y, Tensor z) : at_(y, z), y_(y.ptr<T>()), y_stride_(y.row_stride), z_(z.ptr<Z>()) {}

    void forward(Tensor out, int threads) const {
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(at_.N * at_.H * at_.HS))
        for (int64_t n = 0; n < at_.N; ++n)
            for (int64_t h = 0; h < at_.H; ++h) {
                T* const to = out.ptr<T>() + n * out.row_stride + h * at_.HS;
                const T* const from = y_ + n * y_stride_ + h * at_.HS;
                if constexpr (kInLanes)
                    if (at_.channel && avx512_bf16::available()) {
                        avx512_bf16::gate_forward<Function, Combination>(to, from, z_ + n * at_.token + h * at_.head,
                                                                         at_.HS);
                        continue;
                    }
                apply(to, from, n, h, [](R y, R g) { return Combination::out(y, g); });
            }
    }

    // z per token.
    void backward(Tensor dy, Tensor dz, Tensor dout, int threads) const {
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(at_.N * at_.H * at_.HS))
        for (int64_t n = 0; n < at_.N; ++n) {
            Z* dgate = dz.ptr<Z>() + n * at_.token;
            if (!at_.channel) {
                for (int64_t h = 0; h < at_.H; ++h) {
                    const R z = static_cast<R>(z_[n * at_.token + h * at_.head]), s = sigmoid_fast(z);
                    store(dgate[h * at_.head], Function::slope(head_sum(dout, n, h), z, s));
                    head_dy(dy, dout, n, h);
                }
            } else if (at_.H == 1) {
                T* to = dy.ptr<T>() + n * dy.row_stride;
                const T* d = dout.ptr<T>() + n * dout.row_stride;
                const T* from = y_ + n * y_stride_;
                const Z* gate = z_ + n * at_.token;
                if constexpr (kInLanes)
                    if (avx512_bf16::available()) {
                        avx512_bf16::gate_backward<Function, Combination>(to, dgate, d, from, gate, at_.HS);
                        continue;
                    }
#pragma omp simd
                for (int64_t c = 0; c < at_.HS; ++c) {
                    const R z = static_cast<R>(gate[c]), s = sigmoid_fast(z), dc = static_cast<R>(d[c]);
                    store(dgate[c], Function::slope(Combination::dg(dc, static_cast<R>(from[c])), z, s));
                    store(to[c], Combination::dy(dc, Function::value(z, s)));
                }
            } else {
                R* sums = workspace<struct GateSums, R>(at_.HS);
                std::fill_n(sums, at_.HS, R(0));
                add_channels(sums, dout, n);
                const Z* gate = z_ + n * at_.token;
#pragma omp simd
                for (int64_t c = 0; c < at_.HS; ++c) {
                    const R z = static_cast<R>(gate[c]);
                    store(dgate[c], Function::slope(sums[c], z, sigmoid_fast(z)));
                }
                for (int64_t h = 0; h < at_.H; ++h) head_dy(dy, dout, n, h);
            }
        }
    }

    // The same z for all tokens: f'(z) stands outside of the sum over them.
    void backward_constant(Tensor dy, Tensor dz, Tensor dout, Write write, int threads) const {
        const int64_t size = dz.elements();
        const Slots slots(at_.N, kGateSlots);
        R* partial = workspace<struct GateSlots, R>(slots.count * size);
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(at_.N * at_.H * at_.HS))
        for (int64_t slot = 0; slot < slots.count; ++slot) {
            R* sums = partial + slot * size;
            std::fill_n(sums, size, R(0));
            for (int64_t n = slots.begin(slot); n < slots.end(slot); ++n) {
                if (at_.channel) add_channels(sums, dout, n);
                for (int64_t h = 0; h < at_.H; ++h) {
                    if (!at_.channel) sums[h * at_.head] += head_sum(dout, n, h);
                    head_dy(dy, dout, n, h);
                }
            }
        }
        fold_slots(partial, partial, slots.count, size, size, Write::kOverwrite);
        Z* dgate = dz.ptr<Z>();
        for (int64_t i = 0; i < size; ++i) {
            const R z = static_cast<R>(z_[i]), slope = Function::slope(partial[i], z, sigmoid_fast(z));
            store(dgate[i], write == Write::kAccumulate ? static_cast<R>(dgate[i]) + slope : slope);
        }
    }

  private:
    static R value(R z) {
        return Function::value(z, sigmoid_fast(z));
    }

    R head_sum(Tensor dout, int64_t n, int64_t h) const {
        const T* d = dout.ptr<T>() + n * dout.row_stride + h * at_.HS;
        const T* from = y_ + n * y_stride_ + h * at_.HS;
        return lane_sum<R>(at_.HS,
                           [&](int64_t c) { return Combination::dg(static_cast<R>(d[c]), static_cast<R>(from[c])); });
    }
    // Adds a token's gradients of g to sums, for each channel, or each of every head.
    void add_channels(R* sums, Tensor dout, int64_t n) const {
        for (int64_t h = 0; h < at_.H; ++h) {
            const T* d = dout.ptr<T>() + n * dout.row_stride + h * at_.HS;
            const T* from = y_ + n * y_stride_ + h * at_.HS;
            R* to = sums + h * at_.head;
#pragma omp simd
            for (int64_t c = 0; c < at_.HS; ++c)
                to[c] += Combination::dg(static_cast<R>(d[c]), static_cast<R>(from[c]));
        }
    }
    void head_dy(Tensor dy, Tensor dout, int64_t n, int64_t h) const {
        apply(dy.ptr<T>() + n * dy.row_stride + h * at_.HS, dout.ptr<T>() + n * dout.row_stride + h * at_.HS, n, h,
              [](R d, R g) { return Combination::dy(d, g); });
    }
    // to = f(from, g) for a head of a token.
    template <class F>
    void apply(T* to, const T* from, int64_t n, int64_t h, F&& f) const {
        const Z* z = z_ + n * at_.token + h * at_.head;
        if (at_.channel) {
#pragma omp simd
            for (int64_t c = 0; c < at_.HS; ++c) store(to[c], f(static_cast<R>(from[c]), value(static_cast<R>(z[c]))));
        } else {
            const R g = value(static_cast<R>(z[0]));
#pragma omp simd
            for (int64_t c = 0; c < at_.HS; ++c) store(to[c], f(static_cast<R>(from[c]), g));
        }
    }

    GateLayout at_;
    const T* y_;
    int64_t y_stride_;
    const Z* z_;
};

// Calls f(gate), which has the types and the function of the call.
template <class F>
void with_gate(Tensor y, Tensor z, GateSpec spec, F&& f) {
    dispatch_float(y.dtype, [&]<class T>() {
        dispatch_gate(spec, [&]<class Function, class Combination>() {
            if (z.dtype == y.dtype)
                f(Gate<Function, Combination, T, T>(y, z));
            else
                f(Gate<Function, Combination, T, Accumulator<T>>(y, z));
        });
    });
}

}  // namespace

void gate_forward(Tensor out, Tensor y, Tensor z, GateSpec spec, const Exec& exec) {
    with_gate(y, z, spec, [&](const auto& gate) { gate.forward(out, exec.threads); });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, GateSpec spec, Write write,
                   const Exec& exec) {
    with_gate(y, z, spec, [&](const auto& gate) {
        if (z.shape.rank() == 2)
            gate.backward_constant(dy, dz, dout, write, exec.threads);
        else
            gate.backward(dy, dz, dout, exec.threads);
    });
}

void head_softmax_forward(Tensor out, Tensor z, const Exec& exec) {
    const int64_t N = z.shape[0], NH = z.shape[1];
    dispatch_float(z.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * NH))
        for (int64_t n = 0; n < N; ++n) {
            const T* from = z.ptr<T>() + n * NH;
            T* to = out.ptr<T>() + n * NH;
            R top = static_cast<R>(from[0]), sum = 0;
            for (int64_t h = 1; h < NH; ++h) top = std::max(top, static_cast<R>(from[h]));
            for (int64_t h = 0; h < NH; ++h) sum += exp_fast(static_cast<R>(from[h]) - top);
            const R scale = static_cast<R>(NH) / sum;
            for (int64_t h = 0; h < NH; ++h) store(to[h], exp_fast(static_cast<R>(from[h]) - top) * scale);
        }
    });
}

void head_softmax_backward(Tensor dz, Tensor dout, Tensor out, const Exec& exec) {
    const int64_t N = out.shape[0], NH = out.shape[1];
    dispatch_float(out.dtype, [&]<class T>() {
        using R = Accumulator<T>;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(N * NH))
        for (int64_t n = 0; n < N; ++n) {
            const T *gain = out.ptr<T>() + n * NH, *d = dout.ptr<T>() + n * NH;
            T* to = dz.ptr<T>() + n * NH;
            R sum = 0;
            for (int64_t h = 0; h < NH; ++h) sum += static_cast<R>(gain[h]) * static_cast<R>(d[h]);
            const R mean = sum / static_cast<R>(NH);
            for (int64_t h = 0; h < NH; ++h) store(to[h], static_cast<R>(gain[h]) * (static_cast<R>(d[h]) - mean));
        }
    });
}

}  // namespace plimsoll::cpu
