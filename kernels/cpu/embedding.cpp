#include <algorithm>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

namespace plimsoll::cpu {
namespace {

template <class R>
void forward(R* out, const int32_t* tokens, const int32_t* positions, const R* token_table, const R* position_table,
             int64_t N, int64_t C, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * C))
    for (int64_t n = 0; n < N; ++n) {
        const R* token = token_table + tokens[n] * C;
        R* to = out + n * C;
        if (!position_table) {
            std::copy_n(token, C, to);
            continue;
        }
        const R* position = position_table + positions[n] * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) to[c] = token[c] + position[c];
    }
}

// Each thread owns a range of channels and walks all tokens: rows that occur twice need no atomics, and every element
// is summed in ascending n for any number of threads. Ranges are multiples of a cache line.
template <class R>
void backward(R* dtoken_table, R* dposition_table, const R* dout, const int32_t* tokens, const int32_t* positions,
              int64_t N, int64_t C, int threads) {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(R));
    const int64_t lines = (C + kLine - 1) / kLine;
#pragma omp parallel for num_threads(threads) schedule(static) if (worth_threads(N * C))
    for (int64_t part = 0; part < threads; ++part) {
        const int64_t begin = lines * part / threads * kLine;
        const int64_t end = std::min(C, lines * (part + 1) / threads * kLine);
        for (int64_t n = 0; n < N; ++n) {
            const R* grad = dout + n * C;
            R* token = dtoken_table + tokens[n] * C;
#pragma omp simd
            for (int64_t c = begin; c < end; ++c) token[c] += grad[c];
            if (!dposition_table) continue;
            R* position = dposition_table + positions[n] * C;
#pragma omp simd
            for (int64_t c = begin; c < end; ++c) position[c] += grad[c];
        }
    }
}

}  // namespace

void embedding_forward(Tensor out, std::span<const int32_t> tokens, std::span<const int32_t> positions,
                       Tensor token_table, Tensor position_table, const Exec& exec) {
    const auto run = [&]<class R>() {
        forward<R>(out.ptr<R>(), tokens.data(), positions.data(), token_table.ptr<R>(),
                   position_table ? position_table.ptr<R>() : nullptr, out.shape[0], out.shape[1], exec.threads);
    };
    out.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

void embedding_backward(Tensor dtoken_table, Tensor dposition_table, Tensor dout, std::span<const int32_t> tokens,
                        std::span<const int32_t> positions, const Exec& exec) {
    const auto run = [&]<class R>() {
        backward<R>(dtoken_table.ptr<R>(), dposition_table ? dposition_table.ptr<R>() : nullptr, dout.ptr<R>(),
                    tokens.data(), positions.data(), dout.shape[0], dout.shape[1], exec.threads);
    };
    dout.dtype == DType::kF64 ? run.operator()<double>() : run.operator()<float>();
}

}  // namespace plimsoll::cpu
