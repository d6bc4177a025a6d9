// Heads of tokens, a warp each.
#pragma once

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

inline constexpr int kHeadsPerBlock = 4;

// (N, H, HS), which may be a slice of wider rows; `index` counts the heads of all tokens: n * H + h.
template <class T>
struct Heads {
    T* data;
    int64_t row_stride;
    int H, HS;
    PLIMSOLL_DEVICE T* head(int64_t index) const { return data + index / H * row_stride + index % H * HS; }
};
template <class T>
Heads<T> heads_of(const Tensor& t) {
    return {t.ptr<std::remove_const_t<T>>(), t.row_stride, static_cast<int>(t.shape[1]), static_cast<int>(t.shape[2])};
}

// The head of this thread's warp; the last block has warps behind the last head.
PLIMSOLL_DEVICE int64_t head_of_warp() {
    return static_cast<int64_t>(blockIdx.x) * kHeadsPerBlock + threadIdx.x / kWarp;
}
// The blocks of a launch for `heads` heads, and the threads of each.
inline dim3 grid_of_heads(int64_t heads) {
    return dim3(blocks_for(heads, kHeadsPerBlock));
}
inline constexpr int kHeadThreads = kHeadsPerBlock * kWarp;

}  // namespace plimsoll::cuda
