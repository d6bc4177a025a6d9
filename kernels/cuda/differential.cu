// The difference of two score maps: a warp per pair of maps of a token.
#include "kernels/differential.h"

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kPairsPerBlock = 4, kThreads = 256;

template <class T>
struct Maps {
    const T* y;
    T* dy;
    const T* logits;      // (N, P) of lambda, or null
    const float* lambda;  // (1)
    const float* gain;    // or null
    float* rstd;
    int64_t pairs;  // of all tokens
    int P, VS;
    float factor, eps;

    PLIMSOLL_DEVICE float lambda_of(int64_t pair) const {
        return logits ? sigmoid(static_cast<float>(logits[pair])) : *lambda;
    }
    // Where element c of the pair's first or second map lies.
    PLIMSOLL_DEVICE int64_t at(int64_t pair, int which, int c) const { return (2 * pair + which) * VS + c; }
    PLIMSOLL_DEVICE float z(int64_t pair, int c, float of_second) const {
        return static_cast<float>(y[at(pair, 0, c)]) - of_second * static_cast<float>(y[at(pair, 1, c)]);
    }
};
template <class T>
Maps<T> maps_of(const DifferentialTensors& t, const DifferentialSpec& spec, const Tensor& dy) {
    const bool one = t.lambda.shape.rank() == 1;
    return {.y = t.y.ptr<T>(),
            .dy = optional<T>(dy),
            .logits = one ? nullptr : t.lambda.ptr<T>(),
            .lambda = one ? t.lambda.ptr<float>() : nullptr,
            .gain = optional<float>(t.gain),
            .rstd = optional<float>(t.rstd),
            .pairs = t.out.shape[0] * t.out.shape[1],
            .P = static_cast<int>(t.out.shape[1]),
            .VS = static_cast<int>(t.y.shape[2]),
            .factor = static_cast<float>(spec.factor),
            .eps = static_cast<float>(spec.eps)};
}

template <class T>
__global__ void __launch_bounds__(kPairsPerBlock* kWarp) differential_forward_kernel(T* out, Maps<T> maps) {
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * kPairsPerBlock + threadIdx.x / kWarp;
    if (pair >= maps.pairs) return;
    const int W = maps.VS;
    const float lambda = maps.lambda_of(pair);
    float scale = 1.0f;
    if (maps.gain) {
        float squares = 0;
        for (int c = threadIdx.x % kWarp; c < W; c += kWarp) {
            const float z = maps.z(pair, c, lambda);
            squares += z * z;
        }
        const float rstd = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(W) + maps.eps);
        if (threadIdx.x % kWarp == 0) maps.rstd[pair] = rstd;
        scale = rstd * maps.factor;
    }
    for (int c = threadIdx.x % kWarp; c < W; c += kWarp)
        out[pair * W + c] = static_cast<T>(maps.z(pair, c, lambda) * scale * (maps.gain ? maps.gain[c] : 1.0f));
}

// dy, and lambda's gradient: that of its logit, or this pair's part of the one lambda's.
template <class T>
__global__ void __launch_bounds__(kPairsPerBlock* kWarp)
    differential_backward_kernel(const T* dout, T* dlogit, float* dlambda_parts, Maps<T> maps) {
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * kPairsPerBlock + threadIdx.x / kWarp;
    if (pair >= maps.pairs) return;
    const int W = maps.VS;
    const float lambda = maps.lambda_of(pair), rstd = maps.gain ? maps.rstd[pair] : 1.0f;
    const auto g = [&](int c) {
        return static_cast<float>(dout[pair * W + c]) * (maps.gain ? maps.factor * maps.gain[c] : 1.0f);
    };
    float mean = 0;
    if (maps.gain) {
        for (int c = threadIdx.x % kWarp; c < W; c += kWarp) mean += g(c) * rstd * maps.z(pair, c, lambda);
        mean = warp_sum(mean) / static_cast<float>(W);
    }
    float dlambda = 0;
    for (int c = threadIdx.x % kWarp; c < W; c += kWarp) {
        const float dz = rstd * (g(c) - rstd * maps.z(pair, c, lambda) * mean);
        dlambda -= dz * static_cast<float>(maps.y[maps.at(pair, 1, c)]);
        maps.dy[maps.at(pair, 0, c)] = static_cast<T>(dz);
        maps.dy[maps.at(pair, 1, c)] = static_cast<T>(-lambda * dz);
    }
    dlambda = warp_sum(dlambda);
    if (threadIdx.x % kWarp) return;
    if (dlogit)
        dlogit[pair] = static_cast<T>(dlambda * lambda * (1.0f - lambda));
    else
        dlambda_parts[pair] = dlambda;
}

// The gain's gradient: factor dout xhat, a row per pair.
template <class T>
struct GainTerm {
    const T* dout;
    Maps<T> maps;
    PLIMSOLL_DEVICE float operator()(int64_t pair, int64_t c) const {
        const int at = static_cast<int>(c);
        return static_cast<float>(dout[pair * maps.VS + c]) * maps.factor * maps.rstd[pair] *
               maps.z(pair, at, maps.lambda_of(pair));
    }
};

// e^(v_row . v_row+1), the same in every lane.
PLIMSOLL_DEVICE float power(const float* v, int HS) {
    float sum = 0;
    for (int c = threadIdx.x; c < HS; c += kWarp) sum += v[c] * v[HS + c];
    return DeviceMath::exp(warp_sum(sum));
}
__global__ void lambda_forward_kernel(float* lambda, const float* v, int HS, float start) {
    const float value = power(v, HS) - power(v + 2 * HS, HS) + start;
    if (threadIdx.x == 0) *lambda = value;
}
__global__ void lambda_backward_kernel(float* dv, const float* dlambda, const float* v, int HS, bool accumulate) {
    for (int row = 0; row < 4; row += 2) {
        const float* pair = v + row * HS;
        const float d = power(pair, HS) * *dlambda * (row ? -1.0f : 1.0f);
        for (int c = threadIdx.x; c < 2 * HS; c += kWarp) {
            float& to = dv[row * HS + c];
            to = (accumulate ? to : 0.0f) + d * pair[(c + HS) % (2 * HS)];
        }
    }
}

// x or dx (N, H, HS) with rows a stride apart, and every block of heads twice, contiguous.
template <class T>
struct Repeated {
    T* once;
    T* twice;
    int64_t row_stride, width, block;  // width: H * HS; block in elements

    PLIMSOLL_DEVICE T& source(int64_t i) const { return once[i / width * row_stride + i % width]; }
    PLIMSOLL_DEVICE T& copy(int64_t i, int a) const {
        const int64_t c = i % width;
        return twice[i / width * 2 * width + (2 * (c / block) + a) * block + c % block];
    }
};
template <class T>
__global__ void __launch_bounds__(kThreads) repeat_forward_kernel(Repeated<T> t, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) t.copy(i, 0) = t.copy(i, 1) = t.source(i);
}
template <class T>
__global__ void __launch_bounds__(kThreads) repeat_backward_kernel(Repeated<T> t, int64_t count) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) t.source(i) = static_cast<T>(static_cast<float>(t.copy(i, 0)) + static_cast<float>(t.copy(i, 1)));
}
template <class T>
Repeated<T> repeated(const Tensor& once, const Tensor& twice, int64_t block) {
    return {once.ptr<T>(), twice.ptr<T>(), once.row_stride, once.row_elements(), block * once.shape[2]};
}

dim3 grid_of(int64_t pairs) {
    return dim3(blocks_for(pairs, kPairsPerBlock));
}

}  // namespace

void differential_forward(const DifferentialTensors& t, const DifferentialSpec& spec, const Exec& exec) {
    dispatch_device_float(t.y.dtype, [&]<class T>() {
        const Maps<T> maps = maps_of<T>(t, spec, {});
        if (maps.pairs == 0) return;
        PLIMSOLL_LAUNCH(differential_forward_kernel<T>, grid_of(maps.pairs), dim3(kPairsPerBlock * kWarp), 0,
                        exec.cuda->stream(), t.out.ptr<T>(), maps);
        launch_check("differential_forward");
    });
}

void differential_backward(const DifferentialTensors& d, const DifferentialTensors& t, const DifferentialSpec& spec,
                           Write write, const Exec& exec) {
    const bool one = t.lambda.shape.rank() == 1;
    dispatch_device_float(t.y.dtype, [&]<class T>() {
        const Maps<T> maps = maps_of<T>(t, spec, d.y);
        const T* dout = d.out.ptr<T>();
        if (maps.pairs)
            PLIMSOLL_LAUNCH(differential_backward_kernel<T>, grid_of(maps.pairs), dim3(kPairsPerBlock * kWarp), 0,
                            exec.cuda->stream(), dout, one ? nullptr : d.lambda.ptr<T>(),
                            one ? d.rstd.ptr<float>() : nullptr, maps);
        launch_check("differential_backward");
        if (one)
            row_sums(d.lambda.ptr<float>(), Element<float>{d.rstd.ptr<float>(), 1}, maps.pairs, 1, Write::kOverwrite,
                     exec);
        if (t.gain) row_sums(d.gain.ptr<float>(), GainTerm<T>{dout, maps}, maps.pairs, t.gain.elements(), write, exec);
    });
}

void differential_lambda_forward(Tensor lambda, Tensor vectors, double start, const Exec& exec) {
    PLIMSOLL_LAUNCH(lambda_forward_kernel, dim3(1), dim3(kWarp), 0, exec.cuda->stream(), lambda.ptr<float>(),
                    vectors.ptr<float>(), static_cast<int>(vectors.shape[1]), static_cast<float>(start));
    launch_check("differential_lambda_forward");
}

void differential_lambda_backward(Tensor dvectors, Tensor dlambda, Tensor vectors, Write write, const Exec& exec) {
    PLIMSOLL_LAUNCH(lambda_backward_kernel, dim3(1), dim3(kWarp), 0, exec.cuda->stream(), dvectors.ptr<float>(),
                    dlambda.ptr<float>(), vectors.ptr<float>(), static_cast<int>(vectors.shape[1]),
                    write == Write::kAccumulate);
    launch_check("differential_lambda_backward");
}

void repeat_heads_forward(Tensor out, Tensor x, int64_t block, const Exec& exec) {
    const int64_t count = x.elements();
    if (count == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(repeat_forward_kernel<T>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0,
                        exec.cuda->stream(), repeated<T>(x, out, block), count);
        launch_check("repeat_heads_forward");
    });
}

void repeat_heads_backward(Tensor dx, Tensor dout, int64_t block, const Exec& exec) {
    const int64_t count = dx.elements();
    if (count == 0) return;
    dispatch_device_float(dx.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(repeat_backward_kernel<T>, dim3(blocks_for(count, kThreads)), dim3(kThreads), 0,
                        exec.cuda->stream(), repeated<T>(dx, dout, block), count);
        launch_check("repeat_heads_backward");
    });
}

}  // namespace plimsoll::cuda
