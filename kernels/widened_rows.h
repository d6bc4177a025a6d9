// Rows of any floating dtype as double, for probes and analyses on the host.
#pragma once

#include <vector>

#include "kernels/tensor.h"

namespace plimsoll {

// (n, c) in host memory, dense, whatever its row stride. Throws Error for a dtype that is no floating one.
inline std::vector<double> widened_rows(const Tensor& t) {
    const int64_t n = t.shape[0], width = t.shape[1];
    std::vector<double> out(static_cast<size_t>(n * width));
    dispatch_float(t.dtype, [&]<class S>() {
        const S* from = t.ptr<S>();
        for (int64_t i = 0; i < n; ++i)
            for (int64_t c = 0; c < width; ++c)
                out[static_cast<size_t>(i * width + c)] =
                    static_cast<double>(static_cast<Accumulator<S>>(from[i * t.row_stride + c]));
    });
    return out;
}

}  // namespace plimsoll
