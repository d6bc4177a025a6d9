#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

constexpr int64_t kBlock = 8192;  // elements: stays in the first cache while the parts are added to it

template <class T>
void add(T* sum, const T* left, const T* right, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) sum[i] = left[i] + right[i];
}

template <class T>
void sum_block(T* own, const T* others, int64_t stride, int64_t ranks, int64_t rank, int64_t count) {
    T sum[kBlock];
    const auto part = [&](int64_t r) { return r == rank ? own : others + (r < rank ? r : r - 1) * stride; };
    const T* left = part(0);
    for (int64_t r = 1; r < ranks; ++r) {
        add(r == ranks - 1 ? own : sum, left, part(r), count);
        left = sum;
    }
}

}  // namespace

void rank_sum(Tensor own, Tensor others, int64_t rank, const Exec& exec) {
    const auto run = [&]<class T>() {
        T* sums = own.ptr<T>();
        const T* parts = others.ptr<T>();
        const int64_t n = own.elements(), ranks = others.rows() + 1;
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(n * ranks))
        for (int64_t i = 0; i < n; i += kBlock) sum_block(sums + i, parts + i, n, ranks, rank, std::min(kBlock, n - i));
    };
    own.dtype == DType::kF64 ? run.template operator()<double>() : run.template operator()<float>();
}

}  // namespace plimsoll::cpu
