#include <cmath>
#include <numeric>

#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"
#include "kernels/mlp.h"
#include "kernels/optimizer.h"
#include "kernels/random.h"
#include "kernels/residual.h"
#include "kernels/rope.h"
#include "train/bench_parts.h"
#include "train/device.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

void fill(Tensor t) {
    const RandomStream stream(1, "bench");
    dispatch_float(t.dtype, [&]<class T>() {
        std::span<T> to = t.span<T>();
        for (size_t i = 0; i < to.size(); ++i)
            to[i] = static_cast<T>(
                static_cast<Accumulator<T>>(i < 4096 ? stream.uniform(i) - 0.5 : static_cast<double>(to[i % 4096])));
    });
}

class KernelBench {
  public:
    KernelBench(DType dtype, const Exec& exec)
        : dtype_(dtype),
          exec_(exec),
          T_(exec.device == Device::kCuda ? 1024 : 256),
          N_(exec.device == Device::kCuda ? 32 * T_ : 4 * T_) {}
    std::vector<KernelTime> run() {
        matmuls();
        attentions();
        elementwise();
        head();
        optimizers();
        return std::move(rows_);
    }

  private:
    static constexpr int64_t kC = 768, kF = 3072, kV = 50304, kNH = 12, kHS = 64;

    void time(const char* name, std::string shape, double flops, double bytes, const std::function<void()>& work) {
        rows_.push_back({name, std::move(shape), best_seconds(work, 7, exec_), flops, bytes});
    }
    double size() const { return static_cast<double>(size_of(dtype_)); }

    void matmuls() {
        for (const auto& [O, I] : {std::pair{3 * kC, kC}, {kF, kC}, {kC, kF}}) {
            BenchOperands t(exec_);
            const auto x = t.add({N_, I}, dtype_), w = t.add({O, I}, dtype_), y = t.add({N_, O}, dtype_);
            const auto dw = t.add({O, I}, DType::kF32), bias = t.add({O}, DType::kF32);
            t.allocate();
            const double flops = 2.0 * static_cast<double>(N_ * O * I),
                         bytes = size() * static_cast<double>(N_ * O + O * I + N_ * I);
            const std::string shape = fmt::format("{} x {} x {}", N_, O, I);
            time("matmul_forward", shape, flops, bytes, [&] { matmul_forward(t[y], t[x], t[w], t[bias], exec_); });
            time("matmul_backward_input", shape, flops, bytes,
                 [&] { matmul_backward_input(t[x], t[y], t[w], Write::kOverwrite, exec_); });
            time("matmul_backward_weight", shape, flops, bytes,
                 [&] { matmul_backward_weight(t[dw], t[bias], t[y], t[x], Write::kOverwrite, exec_); });
        }
    }

    void attentions() {
        std::vector<int32_t> starts, within;
        for (int64_t n = 0; n <= N_; n += T_) starts.push_back(static_cast<int32_t>(n));
        for (int64_t n = 0; n < N_; ++n) within.push_back(static_cast<int32_t>(n % T_));
        const BenchIds cu_seqlens(starts, exec_), positions(within, exec_);
        BenchOperands t(exec_);
        const auto qkv = t.add({N_, 3 * kNH, kHS}, dtype_), dqkv = t.add({N_, 3 * kNH, kHS}, dtype_);
        const auto y = t.add({N_, kNH, kHS}, dtype_), dy = t.add({N_, kNH, kHS}, dtype_),
                   lse = t.add({kNH, N_}, DType::kF32);
        t.allocate();
        const auto part = [&](ArenaSlot slot, int64_t i) { return t[slot].slice_columns(i * kNH, kNH); };
        const double flops = 4.0 * static_cast<double>(kNH * kHS * N_) * static_cast<double>(T_ + 1) / 2;
        const double bytes = 4 * size() * static_cast<double>(N_ * kNH * kHS);
        for (size_t i = 0; i < variants().size(); ++i) {
            AttentionSpec spec{.weighting = static_cast<Weighting>(i), .scale = 0.125};
            spec.score_bias = -std::log(static_cast<double>(T_));
            const std::string shape = fmt::format("{} {}x{}x{}x{}", variants()[i].name, N_ / T_, T_, kNH, kHS);
            const auto forward = [&] {
                attention_forward(t[y], t[lse], part(qkv, 0), part(qkv, 1), part(qkv, 2), {}, cu_seqlens, spec, exec_);
            };
            time("attention_forward", shape, flops, bytes, forward);
            time("attention_backward", shape, 2.5 * flops, 2 * bytes, [&] {
                attention_backward(part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), {}, t[dy], t[y], t[lse], part(qkv, 0),
                                   part(qkv, 1), part(qkv, 2), {}, cu_seqlens, spec, Write::kOverwrite, exec_);
            });
        }
        time("rope_forward", fmt::format("{}x{}x{}", N_, 2 * kNH, kHS), 0,
             4 * size() * static_cast<double>(N_ * kNH * kHS),
             [&] { rope_forward(t[qkv].slice_columns(0, 2 * kNH), positions, 1e4, exec_); });
        time("gate_forward", fmt::format("{}x{}x{}", N_, kNH, kHS), 0, 3 * size() * static_cast<double>(N_ * kNH * kHS),
             [&] { gate_forward(t[y], t[y], t[dy], exec_); });
    }

    void elementwise() {
        BenchOperands t(exec_);
        const auto x = t.add({N_, kC}, DType::kF32), sum = t.add({N_, kC}, DType::kF32),
                   dx = t.add({N_, kC}, DType::kF32);
        const auto branch = t.add({N_, kC}, dtype_), out = t.add({N_, kC}, dtype_);
        const auto mean = t.add({N_}, DType::kF32), rstd = t.add({N_}, DType::kF32), gain = t.add({kC}, DType::kF32),
                   bias = t.add({kC}, DType::kF32);
        const auto up = t.add({N_, kF}, dtype_), act = t.add({N_, kF}, dtype_);
        t.allocate();
        const NormSpec layer{.kind = NormKind::kLayer};
        const double elements = static_cast<double>(N_ * kC), wide = static_cast<double>(N_ * kF);
        const std::string shape = fmt::format("{}x{}", N_, kC), wide_shape = fmt::format("{}x{}", N_, kF);
        time("norm_forward", shape, 0, elements * (4 + size()),
             [&] { norm_forward(t[out], t[mean], t[rstd], t[x], t[gain], t[bias], layer, exec_); });
        time("residual_norm_forward", shape, 0, elements * (8 + 2 * size()), [&] {
            residual_norm_forward(t[sum], t[out], t[mean], t[rstd], t[x], t[branch], t[gain], t[bias], layer, exec_);
        });
        time("norm_backward", shape, 0, elements * (12 + size()), [&] {
            norm_backward(t[dx], t[gain], t[bias], t[out], t[x], t[gain], t[mean], t[rstd], layer, Write::kOverwrite,
                          exec_);
        });
        for (const auto& [name, kind] : {std::pair{"gelu", Activation::kGelu}, {"relu", Activation::kRelu}}) {
            time("activation_forward", fmt::format("{} {}", name, wide_shape), 0, 2 * wide * size(),
                 [&, kind = kind] { activation_forward(t[act], t[up], kind, exec_); });
            time("activation_backward", fmt::format("{} {}", name, wide_shape), 0, 3 * wide * size(),
                 [&, kind = kind] { activation_backward(t[up], t[act], t[up], kind, exec_); });
        }
    }

    void head() {
        BenchOperands t(exec_);
        const auto logits = t.add({N_, kV}, dtype_);
        const auto top = t.add({N_}, DType::kF32), sum = t.add({N_}, DType::kF32), target = t.add({N_}, DType::kF32);
        const auto nll = t.add({N_}, DType::kF32), lse = t.add({N_}, DType::kF32);
        t.allocate();
        std::vector<int32_t> ids(static_cast<size_t>(N_));
        std::iota(ids.begin(), ids.end(), 0);
        const BenchIds targets(ids, exec_);
        const CrossEntropyState state{t[top], t[sum], t[target]};
        const double bytes = size() * static_cast<double>(N_ * kV);
        const std::string shape = fmt::format("{}x{}", N_, kV);
        time("cross_entropy_accumulate", shape, 0, bytes, [&] {
            cross_entropy_begin(state, exec_);
            cross_entropy_accumulate(state, t[logits], 0, targets, exec_);
        });
        cross_entropy_finish(t[nll], t[lse], state, targets, exec_);
        time("cross_entropy_gradient", shape, 0, 2 * bytes,
             [&] { cross_entropy_gradient(t[logits], 0, t[lse], targets, 1, 0, exec_); });
    }

    void optimizers() {
        constexpr int64_t kElements = 20'000'000;
        BenchOperands t(exec_);
        const auto p = t.add({kElements}, DType::kF32), m = t.add({kElements}, DType::kF32),
                   v = t.add({kElements}, DType::kF32);
        const auto g = t.add({kElements}, DType::kF32), working = t.add({kElements}, DType::kBF16);
        t.allocate();
        const bool mixed = dtype_ == DType::kBF16;
        time("adamw_step", fmt::format("{} M", kElements / 1'000'000), 0,
             static_cast<double>(kElements) * (mixed ? 30 : 28),
             [&] { adamw_step(t[p], t[m], t[v], t[g], mixed ? t[working] : Tensor{}, {.lr = 1e-4}, exec_); });
    }

    DType dtype_;
    Exec exec_;
    const int64_t T_, N_;
    std::vector<KernelTime> rows_;
};

}  // namespace

void BenchOperands::allocate() {
    arena_ = Arena(plan_, exec_.device);
    for (int i = 0; i < static_cast<int>(plan_.entries().size()); ++i) {
        const Tensor t = arena_[{i}];
        const HostCopy host(t, exec_);
        fill(host.tensor());
        if (host.tensor().data != t.data) copy_tensor(t, host.tensor(), exec_);
    }
}

BenchIds::BenchIds(const std::vector<int32_t>& values, const Exec& exec) : count_(values.size()) {
    const Shape shape{static_cast<int64_t>(count_)};
    memory_ = allocate_memory(exec.device, shape[0] * size_of(DType::kI32), "ids");
    copy_tensor(Tensor(memory_.get(), DType::kI32, shape, exec.device),
                Tensor(const_cast<int32_t*>(values.data()), DType::kI32, shape), exec);
}

std::vector<KernelTime> time_kernels(DType dtype, const Exec& exec) {
    return KernelBench(dtype, exec).run();
}

double memory_bytes_per_second(const Exec& exec) {
    constexpr int64_t kElements = 32 << 20;
    BenchOperands t(exec);
    const auto x = t.add({1, kElements}, DType::kF32), y = t.add({1, kElements}, DType::kF32);
    t.allocate();
    return 3 * 4 * static_cast<double>(kElements) /
           best_seconds([&] { residual_forward(t[x], t[x], t[y], exec); }, 3, exec);
}

}  // namespace plimsoll
