#include <algorithm>

#include "kernels/cuda/common.cuh"

namespace plimsoll::cuda {

void copy_rects(std::span<const CopyRect> rects, const Exec& exec) {
    for (const CopyRect& r : rects) {
        if (r.width == 0 || r.height == 0) continue;
        const auto pitch = [&](int64_t given) { return static_cast<size_t>(std::max(given, r.width)); };
        check_cuda(cudaMemcpy2DAsync(r.to, pitch(r.to_pitch), r.from, pitch(r.from_pitch), static_cast<size_t>(r.width),
                                     static_cast<size_t>(r.height), cudaMemcpyDeviceToDevice, exec.cuda->stream()),
                   "copy_rects");
    }
}

}  // namespace plimsoll::cuda
