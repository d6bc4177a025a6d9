// Temperatures of queries and values (kernels/temperature.h): a warp per head of a token.
#include "kernels/temperature.h"

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

// What tau is made of; z and alpha may be null.
template <class T>
struct Temperature {
    const T* z;
    const float* alpha;
    const int32_t* positions;
    int H;

    PLIMSOLL_DEVICE float tanh(int64_t index) const { return z ? tanhf(static_cast<float>(z[index])) : 0.0f; }
    PLIMSOLL_DEVICE float log_position(int64_t n) const { return logf(static_cast<float>(positions[n]) + 1.0f); }
    PLIMSOLL_DEVICE float tau(int64_t index) const {
        return 1.0f + tanh(index) + (alpha ? sigmoid(alpha[index % H]) * log_position(index / H) : 0.0f);
    }
};

template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    temperature_forward_kernel(Heads<T> out, Heads<const T> x, Temperature<T> t, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const T* from = x.head(index);
    T* to = out.head(index);
    const float tau = t.tau(index);
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp) to[c] = static_cast<T>(tau * static_cast<float>(from[c]));
}

// A lane writes what only it has read: dx may be dout. dz and dtau may be null.
template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    temperature_backward_kernel(Heads<T> dx, T* dz, float* dtau, Heads<const T> dout, Heads<const T> x,
                                Temperature<T> t, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const T *from = x.head(index), *grad = dout.head(index);
    T* to = dx.head(index);
    const float tau = t.tau(index);
    float sum = 0;
    for (int c = threadIdx.x % kWarp; c < x.HS; c += kWarp) {
        const float d = static_cast<float>(grad[c]);
        sum += d * static_cast<float>(from[c]);
        to[c] = static_cast<T>(tau * d);
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp) return;
    const float tanh = t.tanh(index);
    if (dz) dz[index] = static_cast<T>(sum * (1.0f - tanh * tanh));
    if (dtau) dtau[index] = sum;
}

// dalpha's term.
template <class T>
struct PositionTerm {
    const float* dtau;
    Temperature<T> t;
    PLIMSOLL_DEVICE float operator()(int64_t n, int64_t h) const {
        const float s = sigmoid(t.alpha[h]);
        return dtau[n * t.H + h] * t.log_position(n) * s * (1.0f - s);
    }
};

template <class T>
Temperature<T> temperature_of(Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions) {
    return {optional<T>(z), optional<float>(alpha), positions.data(), static_cast<int>(x.shape[1])};
}

}  // namespace

void temperature_forward(Tensor out, Tensor x, Tensor z, Tensor alpha, std::span<const int32_t> positions,
                         const Exec& exec) {
    const int64_t heads = x.shape[0] * x.shape[1];
    if (heads == 0) return;
    dispatch_device_float(x.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(temperature_forward_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        heads_of<T>(out), heads_of<const T>(x), temperature_of<T>(x, z, alpha, positions), heads);
        launch_check("temperature_forward");
    });
}

void temperature_backward(Tensor dx, Tensor dz, Tensor dalpha, Tensor dtau, Tensor dout, Tensor x, Tensor z,
                          Tensor alpha, std::span<const int32_t> positions, Write write, const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1];
    dispatch_device_float(x.dtype, [&]<class T>() {
        const Temperature<T> t = temperature_of<T>(x, z, alpha, positions);
        float* dtaus = optional<float>(dtau);
        if (N > 0) {
            PLIMSOLL_LAUNCH(temperature_backward_kernel<T>, grid_of_heads(N * H), dim3(kHeadThreads), 0,
                            exec.cuda->stream(), heads_of<T>(dx), optional<T>(dz), dtaus, heads_of<const T>(dout),
                            heads_of<const T>(x), t, N * H);
            launch_check("temperature_backward");
        }
        if (dalpha) row_sums(dalpha.ptr<float>(), PositionTerm<T>{dtaus, t}, N, H, write, exec);
    });
}

}  // namespace plimsoll::cuda
