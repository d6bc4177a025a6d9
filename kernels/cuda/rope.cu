// Rotary position embedding: a block per token, sines and cosines once for all its heads.
#include "kernels/rope.h"

#include <cmath>
#include <numbers>

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kMostPairs = 128, kThreads = 128;

struct Frequencies {
    double at[kMostPairs];  // theta^(-2c / HS) / (2 pi): turns per position
};

// Angles are products in fp64, counted in turns and reduced there: fp32 has 24 bits, and positions of 10^6 need 20 of
// them.
template <int kVec, class T>
__global__ void __launch_bounds__(kThreads)
    rope_kernel(T* x, const int32_t* positions, const __grid_constant__ Frequencies frequencies, int64_t row_stride,
                int H, int HS, float direction) {
    PLIMSOLL_SHARED(float2, rotation, [kMostPairs]);
    const int pairs = HS / 2;
    const int64_t n = blockIdx.x;
    if (static_cast<int>(threadIdx.x) < pairs) {
        const double turns = positions[n] * frequencies.at[threadIdx.x];
        const float half_turns = static_cast<float>(2 * (turns - floor(turns + 0.5)));
        rotation[threadIdx.x] = make_float2(cospif(half_turns), direction * sinpif(half_turns));
    }
    __syncthreads();
    const int packs = pairs / kVec;
    for (int i = threadIdx.x; i < H * packs; i += kThreads) {
        const int c = i % packs * kVec;
        T* first = x + n * row_stride + i / packs * HS + c;
        auto a = load<T, kVec>(first), b = load<T, kVec>(first + pairs);
        for (int k = 0; k < kVec; ++k) {
            const float2 r = rotation[c + k];
            const float turned = a.at[k] * r.x - b.at[k] * r.y;
            b.at[k] = b.at[k] * r.x + a.at[k] * r.y;
            a.at[k] = turned;
        }
        store<T, kVec>(first, a);
        store<T, kVec>(first + pairs, b);
    }
}

void rotate(Tensor x, std::span<const int32_t> positions, double theta, float direction, const Exec& exec) {
    const int64_t N = x.shape[0], H = x.shape[1], HS = x.shape[2];
    if (HS / 2 > kMostPairs) fail_input("rope on CUDA: head size {}, at most {}", HS, 2 * kMostPairs);
    if (N == 0) return;
    Frequencies frequencies;
    for (int64_t c = 0; c < HS / 2; ++c)
        frequencies.at[c] =
            std::pow(theta, -2.0 * static_cast<double>(c) / static_cast<double>(HS)) / (2 * std::numbers::pi);
    dispatch_device_float(x.dtype, [&]<class T>() {
        by_vectors(fours(HS / 2, {&x}), [&]<int kVec>() {
            PLIMSOLL_LAUNCH((rope_kernel<kVec, T>), dim3(static_cast<unsigned>(N)), dim3(kThreads), 0,
                            exec.cuda->stream(), x.ptr<T>(), positions.data(), frequencies, x.row_stride,
                            static_cast<int>(H), static_cast<int>(HS), direction);
        });
        launch_check("rope");
    });
}

}  // namespace

void rope_forward(Tensor x, std::span<const int32_t> positions, double theta, const Exec& exec) {
    rotate(x, positions, theta, 1, exec);
}

void rope_backward(Tensor dx, std::span<const int32_t> positions, double theta, const Exec& exec) {
    rotate(dx, positions, theta, -1, exec);
}

}  // namespace plimsoll::cuda
