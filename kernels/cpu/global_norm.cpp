#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {

double sum_of_squares(Tensor x, const Exec& exec) {
    const int64_t count = x.elements(), blocks = (count + kNormBlock - 1) / kNormBlock;
    double* partial = workspace<struct SquareSums, double>(blocks);
    const auto run = [&]<class R>() {
        const R* data = x.ptr<R>();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(count))
        for (int64_t block = 0; block < blocks; ++block) {
            const R* from = data + block * kNormBlock;
            partial[block] = lane_sum<double>(
                std::min(kNormBlock, count - block * kNormBlock),
                [&](int64_t i) {
                    const auto value = static_cast<double>(from[i]);
                    return value * value;
                },
                from);
        }
    };
    x.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += partial[block];
    return sum;
}

}  // namespace plimsoll::cpu
