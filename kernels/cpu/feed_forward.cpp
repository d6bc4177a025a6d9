// A thread takes a panel of rows through all products and what lies between while they are in its second-level cache,
// beside both weights, which all threads have packed before. Only what backward needs goes to memory. A row's bits do
// not depend on its panel, and the norm's parameters sum over the ranges of rows that norm_backward has.
#include "kernels/cpu/feed_forward.h"

#include <algorithm>

#include "kernels/cpu/activated_product.h"
#include "kernels/cpu/avx512_bf16/norm_rows.h"
#include "kernels/cpu/avx512_bf16/tiles.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/norm_row.h"
#include "kernels/cpu/row_slots.h"
#include "kernels/cpu/workspace.h"

namespace plimsoll::cpu {
namespace {

constexpr int64_t kPanel = 128;          // rows, at least
constexpr int64_t kWeights = 768 << 10;  // elements of both weights, at most
constexpr Exec kAlone{};                 // inside a panel: the thread that has it

// Packs both operands with all threads of the region this is called in.
void pack(const avx512_bf16::PackedRight& first, const avx512_bf16::PackedRight& second) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < first.units(); ++i) first.pack(i);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < second.units(); ++i) second.pack(i);
}

Tensor rows(Tensor t, int64_t begin, int64_t count) {
    return t ? t.slice_rows(begin, count) : t;
}
// The calling thread's own memory for a panel's rows of a tensor like `like`.
template <class Tag>
Tensor panel_like(Tensor like, int64_t count) {
    const int64_t columns = like.shape[1];
    return {workspace<Tag, bf16>(count * columns), DType::kBF16, {count, columns}};
}

}  // namespace

bool feed_forward_is_fused(const FeedForwardTensors& t, const Exec& exec) {
    const int64_t longest = std::max(t.up_weight.shape[0], t.up_weight.shape[1]);  // sum of a product
    return exec.device == Device::kCpu && t.normed.dtype == DType::kBF16 && t.x.dtype == DType::kF32 &&
           t.up_weight.elements() + t.down_weight.elements() <= kWeights && longest <= avx512_bf16::kLongest &&
           t.x.shape[0] >= 2 * kPanel * exec.threads && avx512_bf16::available();
}

void feed_forward_forward(const FeedForwardTensors& t, Activation kind, NormSpec spec, const Exec& exec) {
    const int64_t N = t.x.shape[0];
    const Matrix of_up = transposed(matrix(t.up_weight)), of_down = transposed(matrix(t.down_weight));
    const avx512_bf16::PackedRight up(of_up,
                                      workspace<struct PackedUp, bf16>(avx512_bf16::PackedRight::elements(of_up)));
    const avx512_bf16::PackedRight down(
        of_down, workspace<struct PackedDown, bf16>(avx512_bf16::PackedRight::elements(of_down)));
#pragma omp parallel num_threads(exec.threads)
    {
        const avx512_bf16::TileScope scope;
        pack(up, down);
#pragma omp for schedule(static)
        for (int64_t begin = 0; begin < N; begin += kPanel) {
            const int64_t count = std::min(kPanel, N - begin);
            const auto here = [&](Tensor of) { return rows(of, begin, count); };
            const Tensor sum = here(t.sum), normed = here(t.normed), ups = here(t.up), act = here(t.act);
            cpu::residual_norm_forward(sum, normed, here(t.mean), here(t.rstd), here(t.x), here(t.branch), t.gain,
                                       t.gain_bias, spec, kAlone);
            activated_forward(act, ups, kind, kAlone, [&](Matrix to, const avx512_bf16::Then& then) {
                avx512_bf16::gemm_rows(to, matrix(normed), up, optional_ptr<float>(t.up_bias), then);
            });
            const Tensor product = panel_like<struct LastProduct>(t.product, count);
            avx512_bf16::gemm_rows(matrix(product), matrix(act), down, optional_ptr<float>(t.down_bias));
            cpu::residual_forward(here(t.out), sum, product, kAlone);
        }
    }
}

void feed_forward_backward(const FeedForwardGradients& d, const FeedForwardTensors& t, Activation kind,
                           NormSpec /*spec*/, Write write, const Exec& exec) {
    const int64_t N = t.sum.shape[0], C = t.sum.shape[1];
    const Matrix of_down = matrix(t.down_weight), of_up = matrix(t.up_weight);
    const avx512_bf16::PackedRight down(
        of_down, workspace<struct PackedDown, bf16>(avx512_bf16::PackedRight::elements(of_down)));
    const avx512_bf16::PackedRight up(of_up,
                                      workspace<struct PackedUp, bf16>(avx512_bf16::PackedRight::elements(of_up)));
    const Slots slots(N, kNormSlots);
    float* const partial = workspace<struct NormParts, float>(2 * slots.count * C);
    const int64_t together = std::max<int64_t>(1, kPanel / slots.rows);
#pragma omp parallel num_threads(exec.threads)
    {
        const avx512_bf16::TileScope scope;
        pack(down, up);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < slots.count; first += together) {
            const int64_t last = std::min(slots.count, first + together);
            const int64_t begin = slots.begin(first), count = slots.end(last - 1) - begin;
            const auto here = [&](Tensor of) { return rows(of, begin, count); };
            const Tensor dact = here(d.dact), dup = here(d.dup);
            activated_backward(dup, dact, here(t.up), kind, kAlone, [&](Matrix to, const avx512_bf16::Then& then) {
                avx512_bf16::gemm_rows(to, matrix(here(d.dout)), down, nullptr, then);
            });
            const Tensor dnormed = panel_like<struct Normed>(t.normed, count);
            avx512_bf16::gemm_rows(matrix(dnormed), matrix(dup), up, nullptr);
            for (int64_t slot = first; slot < last; ++slot) {
                const int64_t from = slots.begin(slot);
                float* const sums = partial + 2 * slot * C;
                std::fill_n(sums, 2 * C, 0.0f);
                avx512_bf16::norm_backward(d.dx.ptr<float>() + from * C, after(optional_ptr<bf16>(d.dbranch), from * C),
                                           sums, d.dbias ? sums + C : nullptr, dnormed.ptr<bf16>() + (from - begin) * C,
                                           t.sum.ptr<float>() + from * C, t.gain.ptr<float>(),
                                           after(optional_ptr<float>(t.mean), from), t.rstd.ptr<float>() + from, true,
                                           slots.end(slot) - from, C);
            }
        }
    }
    fold_slots(d.dgain.ptr<float>(), partial, slots.count, 2 * C, C, write);
    if (d.dbias) fold_slots(d.dbias.ptr<float>(), partial + C, slots.count, 2 * C, C, write);
}

}  // namespace plimsoll::cpu
