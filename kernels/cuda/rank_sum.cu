// Parts of ranks, added in rank order: a thread per element, so that no order is left to the machine.
#include "kernels/rank_sum.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    rank_sum_kernel(T* own, const T* others, int64_t count, int ranks, int rank) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const T mine = own[i];
    const auto part = [&](int r) { return r == rank ? mine : others[(r < rank ? r : r - 1) * count + i]; };
    T sum = part(0);
    for (int r = 1; r < ranks; ++r) sum += part(r);
    own[i] = sum;
}

}  // namespace

void rank_sum(Tensor own, Tensor others, int64_t rank, const Exec& exec) {
    const int64_t count = own.elements();
    const int ranks = static_cast<int>(others.rows()) + 1;
    const auto run = [&]<class T>() {
        PLIMSOLL_LAUNCH((rank_sum_kernel<T>), dim3(blocks_for(count, kThreads)), dim3(kThreads), 0, exec.cuda->stream(),
                        own.ptr<T>(), others.ptr<T>(), count, ranks, static_cast<int>(rank));
        launch_check("rank_sum");
    };
    own.dtype == DType::kF64 ? run.template operator()<double>() : run.template operator()<float>();
}

}  // namespace plimsoll::cuda
