// Biases of keys that their values make: a warp per head of a token.
#include "kernels/key_bias.h"

#include "kernels/cuda/heads.cuh"
#include "kernels/cuda/row_sums.cuh"

namespace plimsoll::cuda {
namespace {

// `heads` counts the query heads of all tokens.
template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    key_bias_forward_kernel(float* bias, Heads<const T> v, const float* w, int NH, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const int h = static_cast<int>(index % NH);
    const T* value = v.head(index / NH * v.H + h / (NH / v.H));
    float sum = 0;
    for (int c = threadIdx.x % kWarp; c < v.HS; c += kWarp) sum += static_cast<float>(value[c]) * w[h * v.HS + c];
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) bias[index] = sum;
}

// `heads` counts the key heads of all tokens.
template <class T>
__global__ void __launch_bounds__(kHeadThreads)
    key_bias_values_kernel(Heads<T> dv, const float* dbias, const float* w, int NH, int64_t heads) {
    const int64_t index = head_of_warp();
    if (index >= heads) return;
    const int group = NH / dv.H, first = static_cast<int>(index % dv.H) * group;
    const float* db = dbias + index / dv.H * NH;
    T* to = dv.head(index);
    for (int c = threadIdx.x % kWarp; c < dv.HS; c += kWarp) {
        float sum = static_cast<float>(to[c]);
        for (int h = first; h < first + group; ++h) sum += db[h] * w[h * dv.HS + c];
        to[c] = static_cast<T>(sum);
    }
}

// Element c, of head c / HS, of a token's part of dw.
template <class T>
struct WeightTerm {
    Heads<const T> v;
    const float* dbias;
    int NH;
    PLIMSOLL_DEVICE float operator()(int64_t n, int64_t c) const {
        const int at = static_cast<int>(c), h = at / v.HS;
        return dbias[n * NH + h] *
               static_cast<float>(v.data[n * v.row_stride + h / (NH / v.H) * v.HS + (at - h * v.HS)]);
    }
};

}  // namespace

void key_bias_forward(Tensor bias, Tensor v, Tensor w, const Exec& exec) {
    const int64_t heads = bias.elements();
    if (heads == 0) return;
    dispatch_device_float(v.dtype, [&]<class T>() {
        PLIMSOLL_LAUNCH(key_bias_forward_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                        bias.ptr<float>(), heads_of<const T>(v), w.ptr<float>(), static_cast<int>(w.shape[0]), heads);
        launch_check("key_bias_forward");
    });
}

void key_bias_backward(Tensor dv, Tensor dw, Tensor dbias, Tensor v, Tensor w, Write write, const Exec& exec) {
    const int64_t heads = v.shape[0] * v.shape[1];
    const int NH = static_cast<int>(w.shape[0]);
    dispatch_device_float(v.dtype, [&]<class T>() {
        if (heads)
            PLIMSOLL_LAUNCH(key_bias_values_kernel<T>, grid_of_heads(heads), dim3(kHeadThreads), 0, exec.cuda->stream(),
                            heads_of<T>(dv), dbias.ptr<float>(), w.ptr<float>(), NH, heads);
        launch_check("key_bias_backward");
        row_sums(dw.ptr<float>(), WeightTerm<T>{heads_of<const T>(v), dbias.ptr<float>(), NH}, v.shape[0],
                 dw.elements(), write, exec);
    });
}

}  // namespace plimsoll::cuda
