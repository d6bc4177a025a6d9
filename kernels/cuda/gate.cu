// Gates and scales (kernels/gate.h).
//
// Rows are cut into segments, one per block, so that no thread divides by the width of a row; tensors without row
// strides whose z has an element for each of theirs are one row. Sums over a head's channels are those of a warp; sums
// over heads those of a thread; sums over tokens those of row_sums.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/row_sums.cuh"
#include "kernels/gate_function.h"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kHeadsPerBlock = kThreads / kWarp;

// One tensor of a call; z has row stride GateLayout::token.
template <class T>
struct Rows {
    T* data;
    int64_t row_stride;
};
template <class T>
Rows<T> rows_of(const Tensor& t) {
    return {t.ptr<std::remove_const_t<T>>(), t.row_stride};
}

template <class Function>
PLIMSOLL_DEVICE float gate_of(float z) {
    return Function::value(z, sigmoid(z));
}

// Which elements a thread has: kVec neighbours of a row of N.
struct Segments {
    int64_t width;
    unsigned per_row;

    template <int kVec>
    PLIMSOLL_DEVICE bool find(int64_t& row, int64_t& first) const {
        row = blockIdx.x / per_row;
        first = (static_cast<int64_t>(blockIdx.x % per_row) * kThreads + threadIdx.x) * kVec;
        return first < width;
    }
};

// g of kVec neighbours from element `first` of row `n` on, none of which is in another head.
template <int kVec, class Function, class Z>
PLIMSOLL_DEVICE Pack<float, kVec> gates(const Z* z, const GateLayout& at, int64_t n, int64_t first) {
    const int head = at.head ? static_cast<int>(first) / static_cast<int>(at.HS) : 0;
    const Z* of_head = z + n * at.token + head * at.head;
    Pack<float, kVec> g;
    if (at.channel) {
        const int64_t c = at.H == 1 ? first : first % at.HS;
        g = load<Z, kVec>(of_head + c);
#pragma unroll
        for (int k = 0; k < kVec; ++k) g.at[k] = gate_of<Function>(g.at[k]);
    } else {
        const float one = gate_of<Function>(static_cast<float>(of_head[0]));
#pragma unroll
        for (int k = 0; k < kVec; ++k) g.at[k] = one;
    }
    return g;
}

// out of y, or with kBackward dy of dout, alone. A thread writes where only it has read: dy may be dout.
template <bool kBackward, int kVec, class Function, class Combination, class T, class Z>
__global__ void __launch_bounds__(kThreads)
    gate_kernel(Rows<T> to, Rows<const T> from, const Z* z, GateLayout at, Segments segments) {
    int64_t n, i;
    if (!segments.find<kVec>(n, i)) return;
    auto values = load<T, kVec>(from.data + n * from.row_stride + i);
    const auto g = gates<kVec, Function>(z, at, n, i);
#pragma unroll
    for (int k = 0; k < kVec; ++k)
        values.at[k] = kBackward ? Combination::dy(values.at[k], g.at[k]) : Combination::out(values.at[k], g.at[k]);
    store<T, kVec>(to.data + n * to.row_stride + i, values);
}

// An element of z for each of y's.
template <int kVec, class Function, class Combination, class T>
__global__ void __launch_bounds__(kThreads)
    gate_backward_kernel(Rows<T> dy, T* dz, Rows<const T> dout, Rows<const T> y, const T* z, Segments segments) {
    int64_t n, i;
    if (!segments.find<kVec>(n, i)) return;
    auto d = load<T, kVec>(dout.data + n * dout.row_stride + i), slope = load<T, kVec>(y.data + n * y.row_stride + i);
    const auto gate = load<T, kVec>(z + n * segments.width + i);
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
        const float s = sigmoid(gate.at[k]), g = Function::value(gate.at[k], s);
        slope.at[k] = Function::slope(Combination::dg(d.at[k], slope.at[k]), gate.at[k], s);
        d.at[k] = Combination::dy(d.at[k], g);
    }
    store<T, kVec>(dz + n * segments.width + i, slope);
    store<T, kVec>(dy.data + n * dy.row_stride + i, d);
}

// One z per head: a warp each.
template <class Function, class Combination, class T>
__global__ void __launch_bounds__(kThreads)
    gate_of_head_backward_kernel(Rows<T> dy, T* dz, Rows<const T> dout, Rows<const T> y, const T* z, GateLayout at) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
    if (index >= at.N * at.H) return;
    const int64_t n = index / at.H, h = index % at.H;
    const T *d = dout.data + n * dout.row_stride + h * at.HS, *from = y.data + n * y.row_stride + h * at.HS;
    T* to = dy.data + n * dy.row_stride + h * at.HS;
    const float gate = static_cast<float>(z[index]), s = sigmoid(gate), g = Function::value(gate, s);
    float sum = 0;
    for (int64_t c = threadIdx.x % kWarp; c < at.HS; c += kWarp) {
        const float dc = static_cast<float>(d[c]);
        sum += Combination::dg(dc, static_cast<float>(from[c]));
        to[c] = static_cast<T>(Combination::dy(dc, g));
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) dz[index] = static_cast<T>(Function::slope(sum, gate, s));
}

// One z per channel, the same for all heads: a thread each.
template <class Function, class Combination, class T>
__global__ void __launch_bounds__(kThreads)
    gate_of_channel_backward_kernel(Rows<T> dy, T* dz, Rows<const T> dout, Rows<const T> y, const T* z, GateLayout at) {
    const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (index >= at.N * at.HS) return;
    const int64_t n = index / at.HS, c = index % at.HS;
    const T *d = dout.data + n * dout.row_stride + c, *from = y.data + n * y.row_stride + c;
    T* to = dy.data + n * dy.row_stride + c;
    const float gate = static_cast<float>(z[index]), s = sigmoid(gate), g = Function::value(gate, s);
    float sum = 0;
    for (int64_t i = 0; i < at.H * at.HS; i += at.HS) {
        const float dc = static_cast<float>(d[i]);
        sum += Combination::dg(dc, static_cast<float>(from[i]));
        to[i] = static_cast<T>(Combination::dy(dc, g));
    }
    dz[index] = static_cast<T>(Function::slope(sum, gate, s));
}

// dz's term where all tokens share z: columns are z's elements, rows the tokens and what else it is repeated over.
template <class Function, class Combination, class T>
struct ConstantGateTerm {
    Rows<const T> dout, y;
    const float* z;
    GateLayout at;

    PLIMSOLL_DEVICE float operator()(int64_t row, int64_t column) const {
        int64_t n = row, h = 0, c = 0;
        if (at.channel && at.head) {
            h = column / at.HS, c = column % at.HS;
        } else if (at.channel) {
            n = row / at.H, h = row % at.H, c = column;
        } else {
            n = row / at.HS, h = column, c = row % at.HS;
        }
        const int64_t i = h * at.HS + c;
        const float t = Combination::dg(static_cast<float>(dout.data[n * dout.row_stride + i]),
                                        static_cast<float>(y.data[n * y.row_stride + i]));
        return Function::slope(t, z[column], sigmoid(z[column]));
    }
};

// How elements become threads; rows are one where nothing tells them apart, so that blocks are full.
struct Launch {
    GateLayout at;
    Segments segments;
    dim3 grid;
    bool vectors;

    Launch(const Tensor& y, const Tensor& z, std::initializer_list<const Tensor*> tensors) : at(y, z) {
        bool flat = at.H == 1 && at.channel && at.token;
        for (const Tensor* t : tensors) flat = flat && t->contiguous();
        if (flat) at.HS *= at.N, at.N = 1;
        vectors = at.HS % 4 == 0 && (!at.channel || reinterpret_cast<uintptr_t>(z.data) % 16 == 0);
        for (const Tensor* t : tensors)
            vectors = vectors && reinterpret_cast<uintptr_t>(t->data) % 16 == 0 && (flat || t->row_stride % 4 == 0);
        const int64_t width = at.H * at.HS;
        segments = {width, blocks_for(width, (vectors ? 4 : 1) * kThreads)};
        grid = dim3(static_cast<unsigned>(at.N * segments.per_row));
    }
};

// Calls f<Function, Combination, T, Z>().
template <class F>
void with_gate(DType dtype, bool constant, GateSpec spec, F&& f) {
    dispatch_device_float(dtype, [&]<class T>() {
        dispatch_gate(spec, [&]<class Function, class Combination>() {
            if (constant)
                f.template operator()<Function, Combination, T, float>();
            else
                f.template operator()<Function, Combination, T, T>();
        });
    });
}

template <class T>
__global__ void __launch_bounds__(kThreads) head_softmax_forward_kernel(T* out, const T* z, int64_t N, int NH) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int lane = threadIdx.x % kWarp;
    const T* from = z + n * NH;
    float top = -INFINITY, sum = 0;
    for (int h = lane; h < NH; h += kWarp) top = fmaxf(top, static_cast<float>(from[h]));
    top = warp_max(top);
    for (int h = lane; h < NH; h += kWarp) sum += DeviceMath::exp(static_cast<float>(from[h]) - top);
    const float scale = static_cast<float>(NH) / warp_sum(sum);
    for (int h = lane; h < NH; h += kWarp)
        out[n * NH + h] = static_cast<T>(DeviceMath::exp(static_cast<float>(from[h]) - top) * scale);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    head_softmax_backward_kernel(T* dz, const T* dout, const T* out, int64_t N, int NH) {
    const int64_t n = static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
    if (n >= N) return;
    const int lane = threadIdx.x % kWarp;
    const T *gain = out + n * NH, *d = dout + n * NH;
    float sum = 0;
    for (int h = lane; h < NH; h += kWarp) sum += static_cast<float>(gain[h]) * static_cast<float>(d[h]);
    const float mean = warp_sum(sum) / static_cast<float>(NH);
    for (int h = lane; h < NH; h += kWarp)
        dz[n * NH + h] = static_cast<T>(static_cast<float>(gain[h]) * (static_cast<float>(d[h]) - mean));
}

}  // namespace

void gate_forward(Tensor out, Tensor y, Tensor z, GateSpec spec, const Exec& exec) {
    if (y.elements() == 0) return;
    const Launch l(y, z, {&out, &y});
    with_gate(y.dtype, z.shape.rank() == 2, spec, [&]<class Function, class Combination, class T, class Z>() {
        by_vectors(l.vectors, [&]<int kVec>() {
            PLIMSOLL_LAUNCH((gate_kernel<false, kVec, Function, Combination, T, Z>), l.grid, dim3(kThreads), 0,
                            exec.cuda->stream(), rows_of<T>(out), rows_of<const T>(y), z.ptr<Z>(), l.at, l.segments);
        });
        launch_check("gate_forward");
    });
}

void gate_backward(Tensor dy, Tensor dz, Tensor dout, Tensor y, Tensor z, GateSpec spec, Write write,
                   const Exec& exec) {
    const bool constant = z.shape.rank() == 2;
    const GateLayout at(y, z);
    with_gate(y.dtype, constant, spec, [&]<class Function, class Combination, class T, class Z>() {
        const Rows<T> to = rows_of<T>(dy);
        const Rows<const T> d = rows_of<const T>(dout), from = rows_of<const T>(y);
        // First dz, which reads dout: dy may be its memory.
        if constexpr (std::is_same_v<Z, float>)
            if (constant) {
                const int64_t columns = z.elements(), rows = columns ? y.elements() / columns : 0;
                row_sums(dz.ptr<float>(), ConstantGateTerm<Function, Combination, T>{d, from, z.ptr<float>(), at}, rows,
                         columns, write, exec);
            }
        if (y.elements() == 0) return;
        if (constant) {
            const Launch l(y, z, {&dy, &dout});
            by_vectors(l.vectors, [&]<int kVec>() {
                PLIMSOLL_LAUNCH((gate_kernel<true, kVec, Function, Combination, T, Z>), l.grid, dim3(kThreads), 0,
                                exec.cuda->stream(), to, d, z.ptr<Z>(), l.at, l.segments);
            });
        } else if constexpr (std::is_same_v<Z, T>) {
            if (!at.channel) {
                PLIMSOLL_LAUNCH((gate_of_head_backward_kernel<Function, Combination, T>),
                                dim3(blocks_for(at.N * at.H, kHeadsPerBlock)), dim3(kThreads), 0, exec.cuda->stream(),
                                to, dz.ptr<T>(), d, from, z.ptr<T>(), at);
            } else if (at.H > 1) {
                PLIMSOLL_LAUNCH((gate_of_channel_backward_kernel<Function, Combination, T>),
                                dim3(blocks_for(at.N * at.HS, kThreads)), dim3(kThreads), 0, exec.cuda->stream(), to,
                                dz.ptr<T>(), d, from, z.ptr<T>(), at);
            } else {
                const Launch l(y, z, {&dy, &dz, &dout, &y});
                by_vectors(l.vectors, [&]<int kVec>() {
                    PLIMSOLL_LAUNCH((gate_backward_kernel<kVec, Function, Combination, T>), l.grid, dim3(kThreads), 0,
                                    exec.cuda->stream(), to, dz.ptr<T>(), d, from, z.ptr<T>(), l.segments);
                });
            }
        }
        launch_check("gate_backward");
    });
}

void head_softmax_forward(Tensor out, Tensor z, const Exec& exec) {
    const int64_t N = z.shape[0];
    if (N == 0) return;
    dispatch_device_float(z.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(head_softmax_forward_kernel<T>, dim3(blocks_for(N, kHeadsPerBlock)), dim3(kThreads), 0,
                        exec.cuda->stream(), out.ptr<T>(), z.ptr<T>(), N, static_cast<int>(z.shape[1]));
        launch_check("head_softmax_forward");
    });
}

void head_softmax_backward(Tensor dz, Tensor dout, Tensor out, const Exec& exec) {
    const int64_t N = out.shape[0];
    if (N == 0) return;
    dispatch_device_float(out.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(head_softmax_backward_kernel<T>, dim3(blocks_for(N, kHeadsPerBlock)), dim3(kThreads), 0,
                        exec.cuda->stream(), dz.ptr<T>(), dout.ptr<T>(), out.ptr<T>(), N,
                        static_cast<int>(out.shape[1]));
        launch_check("head_softmax_backward");
    });
}

}  // namespace plimsoll::cuda
