// Elementwise passes over the residual stream.
#include "kernels/residual.h"

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {
namespace {

constexpr int kThreads = 256;

template <int kVec, class Branch>
__global__ void __launch_bounds__(kThreads)
    residual_kernel(float* out, const float* x, const Branch* branch, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i >= count) return;
    auto values = load<float, kVec>(x + i);
    const auto added = load<Branch, kVec>(branch + i);
    for (int k = 0; k < kVec; ++k) values.at[k] += added.at[k];
    store<float, kVec>(out + i, values);
}

template <int kVec, class To, class From>
__global__ void __launch_bounds__(kThreads) convert_kernel(To* out, const From* x, int64_t count) {
    const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kVec;
    if (i < count) store<To, kVec>(out + i, load<From, kVec>(x + i));
}

}  // namespace

void residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& exec) {
    const int64_t count = x.elements();
    if (count == 0) return;
    dispatch_device_float(branch.dtype, [&]<class Branch>() {
        by_vectors(fours(count, {&out, &x, &branch}), [&]<int kVec>() {
            PLIMSOLL_LAUNCH((residual_kernel<kVec, Branch>), dim3(blocks_for(count, kVec * kThreads)), dim3(kThreads),
                            0, exec.cuda->stream(), out.ptr<float>(), x.ptr<float>(), branch.ptr<Branch>(), count);
        });
        launch_check("residual_forward");
    });
}

void convert(Tensor out, Tensor x, const Exec& exec) {
    const int64_t count = x.elements();
    if (count == 0) return;
    dispatch_device_float(out.dtype, [&]<class To>() {
        dispatch_device_float(x.dtype, [&]<class From>() {
            by_vectors(fours(count, {&out, &x}), [&]<int kVec>() {
                PLIMSOLL_LAUNCH((convert_kernel<kVec, To, From>), dim3(blocks_for(count, kVec * kThreads)),
                                dim3(kThreads), 0, exec.cuda->stream(), out.ptr<To>(), x.ptr<From>(), count);
            });
            launch_check("convert");
        });
    });
}

void fill_zero(Tensor out, const Exec& exec) {
    check_cuda(cudaMemsetAsync(out.data, 0, static_cast<size_t>(out.bytes()), exec.cuda->stream()), "fill_zero");
}

}  // namespace plimsoll::cuda
