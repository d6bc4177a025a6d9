#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "kernels/cross_entropy.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "kernels/mlp.h"
#include "kernels/random.h"
#include "kernels/residual.h"
#include "kernels/rope.h"
#include "kernels/update_table.h"
#include "train/bench_parts.h"
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
        for (KernelTime& row : time_attention({N_ / T_, T_, kNH, kNH, kHS}, {}, dtype_, exec_))
            rows_.push_back(std::move(row));
        std::vector<int32_t> within;
        for (int64_t n = 0; n < N_; ++n) within.push_back(static_cast<int32_t>(n % T_));
        const DeviceIds positions(within, exec_);
        BenchOperands t(exec_);
        const auto qk = t.add({N_, 2 * kNH, kHS}, dtype_), y = t.add({N_, kNH, kHS}, dtype_),
                   z = t.add({N_, kNH, kHS}, dtype_);
        t.allocate();
        const double elements = static_cast<double>(N_ * kNH * kHS);
        time("rope_forward", fmt::format("{}x{}x{}", N_, 2 * kNH, kHS), 0, 4 * size() * elements,
             [&] { rope_forward(t[qk], positions, 1e4, exec_); });
        time("gate_forward", fmt::format("{}x{}x{}", N_, kNH, kHS), 0, 3 * size() * elements,
             [&] { gate_forward(t[y], t[y], t[z], {}, exec_); });
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
            norm_backward(t[dx], t[gain], t[bias], t[out], t[x], t[gain], t[mean], t[rstd], layer, Write::kAccumulate,
                          Write::kOverwrite, exec_);
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
        const DeviceIds targets(ids, exec_);
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
        UpdateTable table({{.count = kElements, .factors = factors_of(AdamWSpec{.lr = 1e-4})}});
        const Shape updates = table.shape();
        const Memory memory = allocate_memory(exec_.device, updates.elements() * size_of(DType::kI32), "updates");
        t.allocate();
        table.place(Tensor(memory.get(), DType::kI32, updates, exec_.device));
        table.upload(exec_);
        const bool mixed = dtype_ == DType::kBF16;
        time("adamw_step", fmt::format("{} M", kElements / 1'000'000), 0,
             static_cast<double>(kElements) * (mixed ? 30 : 28),
             [&] { adamw_step(t[p], t[m], t[v], t[g], mixed ? t[working] : Tensor{}, table.spans(0, 1), exec_); });
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

AttentionShape parse_attention_shape(const std::string& text) {
    AttentionShape s;
    int end = 0;
    const int read = std::sscanf(text.c_str(), "%" SCNd64 "x%" SCNd64 "x%" SCNd64 "x%" SCNd64 "x%" SCNd64 "%n", &s.B,
                                 &s.T, &s.NH, &s.NKV, &s.HS, &end);
    const std::string rest = text.substr(read == 5 ? static_cast<size_t>(end) : 0);
    s.full = rest == ":full";
    if (read != 5 || !(rest.empty() || s.full) || std::min({s.B, s.T, s.NH, s.NKV, s.HS}) < 1 || s.NH % s.NKV)
        fail_input(
            "bench --attention '{}': wanted BxTxNHxNKVxHS, such as 4x4096x16x16x128, NH a multiple of NKV; causal, or "
            "with :full behind it",
            text);
    return s;
}

std::vector<KernelTime> time_attention(const AttentionShape& s, const std::vector<std::string>& weightings, DType dtype,
                                       const Exec& exec) {
    const auto wanted = [&](std::string_view name) {
        return weightings.empty() || std::ranges::find(weightings, name) != weightings.end();
    };
    const int64_t N = s.B * s.T, heads = s.NH + 2 * s.NKV;
    std::vector<int32_t> starts;
    for (int64_t n = 0; n <= N; n += s.T) starts.push_back(static_cast<int32_t>(n));
    const DeviceIds cu_seqlens(starts, exec);
    BenchOperands t(exec);
    const auto qkv = t.add({N, heads, s.HS}, dtype), dqkv = t.add({N, heads, s.HS}, dtype);
    const auto y = t.add({N, s.NH, s.HS}, dtype), dy = t.add({N, s.NH, s.HS}, dtype),
               lse = t.add({s.NH, N}, DType::kF32);
    t.allocate();
    const auto q = [&](ArenaSlot slot) { return t[slot].slice_columns(0, s.NH); };
    const auto k = [&](ArenaSlot slot) { return t[slot].slice_columns(s.NH, s.NKV); };
    const auto v = [&](ArenaSlot slot) { return t[slot].slice_columns(s.NH + s.NKV, s.NKV); };
    const double seen = s.full ? static_cast<double>(s.T) : static_cast<double>(s.T + 1) / 2;  // keys, by a query
    const double flops = 4.0 * static_cast<double>(s.NH * s.HS * N) * seen;
    const double bytes = static_cast<double>(size_of(dtype) * N * (2 * s.NH + 2 * s.NKV) * s.HS);
    std::vector<KernelTime> rows;
    for (size_t i = 0; i < variants().size(); ++i) {
        if (!wanted(variants()[i].name)) continue;
        AttentionSpec spec{.weighting = static_cast<Weighting>(i),
                           .scale = 1 / std::sqrt(static_cast<double>(s.HS)),
                           .score_bias = -std::log(static_cast<double>(s.T)),
                           .prefix = s.full ? s.T : 0};
        const std::string shape =
            fmt::format("{} {}x{}x{}x{}x{}{}", variants()[i].name, s.B, s.T, s.NH, s.NKV, s.HS, s.full ? ":full" : "");
        const auto forward = [&] {
            attention_forward({t[y], t[lse], q(qkv), k(qkv), v(qkv), {}, {}}, cu_seqlens, spec, exec);
        };
        const auto backward = [&] {
            attention_backward({t[dy], {}, q(dqkv), k(dqkv), v(dqkv), {}, {}},
                               {t[y], t[lse], q(qkv), k(qkv), v(qkv), {}, {}}, cu_seqlens, spec, Write::kOverwrite,
                               exec);
        };
        rows.push_back({"attention_forward", shape, best_seconds(forward, 7, exec), flops, bytes});
        rows.push_back({"attention_backward", shape, best_seconds(backward, 7, exec), 2.5 * flops, 2 * bytes});
    }
    return rows;
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
