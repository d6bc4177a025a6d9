#include <algorithm>
#include <cstring>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"

namespace plimsoll::cpu {
namespace {

// Rows are of no consequence to elementwise ops: they run over blocks of this many elements, 32 KiB of fp32.
constexpr int64_t kBlock = 8192;

}  // namespace

void residual_forward(Tensor out, Tensor x, Tensor branch, const Exec& exec) {
    dispatch_stream(x.dtype, branch.dtype, [&]<class R, class Branch>() {
        R* to = out.ptr<R>();
        const R* from = x.ptr<R>();
        const Branch* added = branch.ptr<Branch>();
        const int64_t count = x.elements();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(count))
        for (int64_t i = 0; i < count; i += kBlock) add(to + i, from + i, added + i, std::min(kBlock, count - i));
    });
}

void convert(Tensor out, Tensor x, const Exec& exec) {
    dispatch_float(x.dtype, [&]<class From>() {
        dispatch_float(out.dtype, [&]<class To>() {
            To* to = out.ptr<To>();
            const From* from = x.ptr<From>();
            const int64_t count = x.elements();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (worth_threads(count))
            for (int64_t block = 0; block < count; block += kBlock) {
                const int64_t end = std::min(block + kBlock, count);
#pragma omp simd
                for (int64_t i = block; i < end; ++i) store(to[i], static_cast<Accumulator<To>>(from[i]));
            }
        });
    });
}

void fill_zero(Tensor out, const Exec& exec) {
    constexpr int64_t kBlock = int64_t{1} << 18;  // bytes
    char* to = static_cast<char*>(out.data);
    const int64_t bytes = out.bytes();
#pragma omp parallel for num_threads(exec.threads) schedule(static) if (bytes > kBlock)
    for (int64_t at = 0; at < bytes; at += kBlock)
        std::memset(to + at, 0, static_cast<size_t>(std::min(kBlock, bytes - at)));
}

}  // namespace plimsoll::cpu
