#include "train/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <vector>

#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"
#include "kernels/mlp.h"
#include "kernels/optimizer.h"
#include "kernels/random.h"
#include "kernels/residual.h"
#include "kernels/rope.h"
#include "model/flops.h"
#include "train/machine.h"
#include "train/optimizer.h"

namespace plimsoll {
namespace {

// Best seconds of `repeats` calls after a warm-up.
double best_seconds(const std::function<void()>& work, int repeats) {
    using Clock = std::chrono::steady_clock;
    work();
    double best = 1e30;
    for (int i = 0; i < repeats; ++i) {
        const auto start = Clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return best;
}

// Tensors with random contents in one arena.
class Operands {
  public:
    ArenaSlot add(Shape shape, DType dtype) { return plan_.add("operand", shape, dtype); }
    void allocate() {
        arena_ = Arena(plan_);
        for (int i = 0; i < static_cast<int>(plan_.entries().size()); ++i) fill(arena_[{i}]);
    }
    Tensor operator[](ArenaSlot slot) const { return arena_[slot]; }

  private:
    static void fill(Tensor t) {
        const RandomStream stream(1, "bench");
        dispatch_float(t.dtype, [&]<class T>() {
            std::span<T> to = t.span<T>();
            for (size_t i = 0; i < to.size(); ++i)
                to[i] = static_cast<T>(static_cast<Accumulator<T>>(i < 4096 ? stream.uniform(i) - 0.5
                                                                            : static_cast<double>(to[i % 4096])));
        });
    }
    ArenaPlan plan_{"bench"};
    Arena arena_;
};

struct StepShape {
    const char* name;
    NetworkConfig network;
    int64_t B;            // rows per step
    int64_t micro_batch;  // rows at once: what is fastest here, small enough for activations to stay in cache
};

NetworkConfig network(int64_t layers, int64_t C, int64_t heads, int64_t F, int64_t T, int64_t V, const char* activation,
                      bool bias, bool tied) {
    NetworkConfig config;
    config.model.layers = layers, config.model.channels = C, config.model.heads = heads, config.model.ffn = F,
    config.model.context = T;
    config.model.activation = activation, config.model.bias = bias, config.model.tied = tied;
    config.model.norm = "layer", config.model.position = "learned", config.model.qk_norm = false;
    config.vocab = V;
    return config;
}

// Shapes measured against PyTorch by scripts/bench/torch_peer.py.
std::vector<StepShape> shapes() {
    return {{"gpt2-t64", network(12, 768, 12, 3072, 64, 50304, "gelu", true, true), 4, 4},
            {"gpt2-t256", network(12, 768, 12, 3072, 256, 50304, "gelu", true, true), 4, 4},
            {"bb1", network(1, 256, 1, 1024, 256, 67, "gelu", true, true), 512, 16},
            {"bb3", network(3, 256, 1, 1024, 256, 67, "gelu", true, true), 64, 16},
            {"bb1-relu", network(1, 256, 1, 1024, 256, 67, "relu", false, false), 512, 16}};
}

// Whole training steps of a shape: forward, backward, global norm, AdamW. Best milliseconds.
double step_milliseconds(const StepShape& shape, DType dtype, int64_t steps, int64_t rows, const Exec& exec) {
    const Precision precision{dtype};
    const int64_t T = shape.network.model.context, N = rows * T;
    Transformer model(shape.network, StageRange::whole(shape.network.model), N, precision);
    Optimizer optimizer({}, model.table(), precision);
    model.allocate();
    optimizer.allocate();
    initialize(model.parameters(), model.table(), 1, exec);
    model.refresh_working(exec);
    LocalCoreAttention core;
    const RandomStream stream(1, "bench");
    std::vector<int32_t> tokens(static_cast<size_t>(N)), targets(tokens.size()), positions(tokens.size()), cu_seqlens;
    for (size_t i = 0; i < tokens.size(); ++i) {
        tokens[i] = static_cast<int32_t>(stream.below(i, static_cast<uint64_t>(shape.network.vocab)));
        targets[i] = static_cast<int32_t>(stream.below(i + tokens.size(), static_cast<uint64_t>(shape.network.vocab)));
        positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % T);
    }
    for (int64_t row = 0; row <= rows; ++row) cu_seqlens.push_back(static_cast<int32_t>(row * T));
    const ModelInput input{tokens, targets, positions, cu_seqlens};
    int64_t step = 0;
    const auto one = [&] {
        for (int64_t m = 0; m < shape.B / rows; ++m) {
            model.forward(core, input, exec);
            model.backward(
                core, input, m ? Write::kAccumulate : Write::kOverwrite, [](int64_t) {}, exec);
        }
        const double mean = 1.0 / static_cast<double>(shape.B * T), norm = gradient_norm(model, exec) * mean;
        optimizer.step(model, 3e-4, mean * std::min(1.0, 1.0 / norm), ++step, exec);
    };
    one();
    return 1e3 * best_seconds(one, static_cast<int>(steps));
}

struct Row {
    std::string name, shape;
    double seconds, flops, bytes;
};

// One row per kernel, at the sizes of a GPT-2 124M step with 1024 tokens.
class KernelBench {
  public:
    KernelBench(DType dtype, const Exec& exec) : dtype_(dtype), exec_(exec) {}
    std::vector<Row> run() {
        matmuls();
        attentions();
        elementwise();
        head();
        optimizers();
        return std::move(rows_);
    }

  private:
    static constexpr int64_t kN = 1024, kC = 768, kF = 3072, kV = 50304, kNH = 12, kHS = 64, kT = 256;

    void time(const char* name, std::string shape, double flops, double bytes, const std::function<void()>& work) {
        rows_.push_back({name, std::move(shape), best_seconds(work, 7), flops, bytes});
    }
    double size() const { return static_cast<double>(size_of(dtype_)); }

    void matmuls() {
        for (const auto& [O, I] : {std::pair{3 * kC, kC}, {kF, kC}, {kC, kF}}) {
            Operands t;
            const auto x = t.add({kN, I}, dtype_), w = t.add({O, I}, dtype_), y = t.add({kN, O}, dtype_);
            const auto dw = t.add({O, I}, DType::kF32), bias = t.add({O}, DType::kF32);
            t.allocate();
            const double flops = 2.0 * static_cast<double>(kN * O * I),
                         bytes = size() * static_cast<double>(kN * O + O * I + kN * I);
            const std::string shape = fmt::format("{} x {} x {}", kN, O, I);
            time("matmul_forward", shape, flops, bytes, [&] { matmul_forward(t[y], t[x], t[w], t[bias], exec_); });
            time("matmul_backward_input", shape, flops, bytes,
                 [&] { matmul_backward_input(t[x], t[y], t[w], Write::kOverwrite, exec_); });
            time("matmul_backward_weight", shape, flops, bytes,
                 [&] { matmul_backward_weight(t[dw], t[bias], t[y], t[x], Write::kOverwrite, exec_); });
        }
    }

    void attentions() {
        std::vector<int32_t> cu_seqlens;
        for (int64_t n = 0; n <= kN; n += kT) cu_seqlens.push_back(static_cast<int32_t>(n));
        Operands t;
        const auto qkv = t.add({kN, 3 * kNH, kHS}, dtype_), dqkv = t.add({kN, 3 * kNH, kHS}, dtype_);
        const auto y = t.add({kN, kNH, kHS}, dtype_), dy = t.add({kN, kNH, kHS}, dtype_),
                   lse = t.add({kNH, kN}, DType::kF32);
        t.allocate();
        const auto part = [&](ArenaSlot slot, int64_t i) { return t[slot].slice_columns(i * kNH, kNH); };
        const double flops = 4.0 * static_cast<double>(kNH * kHS * kN) * static_cast<double>(kT + 1) / 2;
        const double bytes = 4 * size() * static_cast<double>(kN * kNH * kHS);
        for (size_t i = 0; i < variants().size(); ++i) {
            AttentionSpec spec{.weighting = static_cast<Weighting>(i), .scale = 0.125};
            spec.score_bias = -std::log(static_cast<double>(kT));
            const std::string shape = fmt::format("{} {}x{}x{}x{}", variants()[i].name, kN / kT, kT, kNH, kHS);
            const auto forward = [&] {
                attention_forward(t[y], t[lse], part(qkv, 0), part(qkv, 1), part(qkv, 2), {}, cu_seqlens, spec, exec_);
            };
            time("attention_forward", shape, flops, bytes, forward);
            time("attention_backward", shape, 2.5 * flops, 2 * bytes, [&] {
                attention_backward(part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), {}, t[dy], t[y], t[lse], part(qkv, 0),
                                   part(qkv, 1), part(qkv, 2), {}, cu_seqlens, spec, Write::kOverwrite, exec_);
            });
        }
        std::vector<int32_t> positions(static_cast<size_t>(kN));
        for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(static_cast<int64_t>(i) % kT);
        time("rope_forward", fmt::format("{}x{}x{}", kN, 2 * kNH, kHS), 0,
             4 * size() * static_cast<double>(kN * kNH * kHS),
             [&] { rope_forward(t[qkv].slice_columns(0, 2 * kNH), positions, 1e4, exec_); });
        time("gate_forward", fmt::format("{}x{}x{}", kN, kNH, kHS), 0, 3 * size() * static_cast<double>(kN * kNH * kHS),
             [&] { gate_forward(t[y], t[y], t[dy], exec_); });
    }

    void elementwise() {
        Operands t;
        const auto x = t.add({kN, kC}, DType::kF32), sum = t.add({kN, kC}, DType::kF32),
                   dx = t.add({kN, kC}, DType::kF32);
        const auto branch = t.add({kN, kC}, dtype_), out = t.add({kN, kC}, dtype_);
        const auto mean = t.add({kN}, DType::kF32), rstd = t.add({kN}, DType::kF32), gain = t.add({kC}, DType::kF32),
                   bias = t.add({kC}, DType::kF32);
        const auto up = t.add({kN, kF}, dtype_), act = t.add({kN, kF}, dtype_);
        t.allocate();
        const NormSpec layer{.kind = NormKind::kLayer};
        const double elements = static_cast<double>(kN * kC), wide = static_cast<double>(kN * kF);
        const std::string shape = fmt::format("{}x{}", kN, kC), wide_shape = fmt::format("{}x{}", kN, kF);
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
        Operands t;
        const auto logits = t.add({kN, kV}, dtype_);
        const auto top = t.add({kN}, DType::kF32), sum = t.add({kN}, DType::kF32), target = t.add({kN}, DType::kF32);
        const auto nll = t.add({kN}, DType::kF32), lse = t.add({kN}, DType::kF32);
        t.allocate();
        std::vector<int32_t> targets(static_cast<size_t>(kN));
        std::iota(targets.begin(), targets.end(), 0);
        const CrossEntropyState state{t[top], t[sum], t[target]};
        const double bytes = size() * static_cast<double>(kN * kV);
        const std::string shape = fmt::format("{}x{}", kN, kV);
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
        Operands t;
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
    std::vector<Row> rows_;
};

// Bytes per second of a large elementwise pass (two reads, one write): what memory gives.
double memory_bytes_per_second(const Exec& exec) {
    constexpr int64_t kElements = 32 << 20;
    Operands t;
    const auto x = t.add({1, kElements}, DType::kF32), y = t.add({1, kElements}, DType::kF32);
    t.allocate();
    return 3 * 4 * static_cast<double>(kElements) / best_seconds([&] { residual_forward(t[x], t[x], t[y], exec); }, 3);
}

}  // namespace

double matmul_flops_per_second(DType dtype, int64_t C, int threads) {
    constexpr int64_t kTokens = 1024;
    Operands t;
    const auto x = t.add({kTokens, C}, dtype), w = t.add({4 * C, C}, dtype), y = t.add({kTokens, 4 * C}, dtype);
    t.allocate();
    const Exec exec{.device = Device::kCpu, .threads = threads};
    return 2.0 * static_cast<double>(kTokens * 4 * C * C) /
           best_seconds([&] { matmul_forward(t[y], t[x], t[w], {}, exec); }, 5);
}

std::string bench_shapes() {
    std::string names;
    for (const StepShape& shape : shapes()) names += (names.empty() ? "" : ", ") + std::string(shape.name);
    return names;
}

int bench(const BenchOptions& options) {
    const Exec exec{.device = Device::kCpu,
                    .threads = options.threads ? static_cast<int>(options.threads) : usable_threads()};
    const DType dtype = compute_dtype(options.precision);
    bool found = options.step.empty();
    if (options.step.empty()) {
        const double peak = matmul_flops_per_second(dtype, 1024, exec.threads), memory = memory_bytes_per_second(exec);
        fmt::print("{}, {} threads, {}, {}\nmeasured peak: {:.0f} GFLOP/s (product), {:.1f} GB/s (memory)\n\n",
                   cpu_name(), exec.threads, name_of(dtype), matmul_backend(), peak / 1e9, memory / 1e9);
        fmt::print("| kernel | size | ms | GFLOP/s | GB/s | share of peak |\n|---|---|---:|---:|---:|---:|\n");
        for (const Row& row : KernelBench(dtype, exec).run()) {
            const double flops = row.flops / row.seconds, bytes = row.bytes / row.seconds;
            fmt::print("| {} | {} | {:.3f} | {} | {:.1f} | {:.0f} % {} |\n", row.name, row.shape, 1e3 * row.seconds,
                       row.flops > 0 ? fmt::format("{:.0f}", flops / 1e9) : "", bytes / 1e9,
                       100 * (row.flops > 0 ? flops / peak : bytes / memory), row.flops > 0 ? "product" : "memory");
        }
        fmt::print("\n| step | tokens | ms | tokens/s | GFLOP/s | share of peak |\n|---|---:|---:|---:|---:|---:|\n");
        for (const StepShape& shape : shapes()) {
            const double ms = step_milliseconds(shape, dtype, options.steps,
                                                options.micro_batch ? options.micro_batch : shape.micro_batch, exec);
            const double tokens = static_cast<double>(shape.B * shape.network.model.context);
            const double flops = flops_per_token(shape.network) * tokens / (1e-3 * ms);
            fmt::print("| {} | {} | {:.1f} | {:.0f} | {:.0f} | {:.0f} % |\n", shape.name, tokens, ms,
                       tokens / (1e-3 * ms), flops / 1e9, 100 * flops / peak);
        }
        return 0;
    }
    for (const StepShape& shape : shapes()) {
        if (shape.name != options.step) continue;
        found = true;
        const int64_t rows = options.micro_batch ? options.micro_batch : shape.micro_batch;
        if (shape.B % rows) fail_input("bench --micro-batch {} does not divide the batch of {} rows", rows, shape.B);
        const int64_t tokens = shape.B * shape.network.model.context;
        const double ms = step_milliseconds(shape, dtype, options.steps, rows, exec);
        const nlohmann::json result{
            {"shape", shape.name},         {"tokens", tokens},
            {"ms_per_step", ms},           {"tokens_per_second", 1e3 * static_cast<double>(tokens) / ms},
            {"precision", name_of(dtype)}, {"threads", exec.threads},
            {"micro_batch", rows}};
        if (options.json)
            fmt::print("{}\n", result.dump());
        else
            fmt::print("{}: {:.1f} ms per step of {} tokens, {:.0f} tokens/s, {}\n", shape.name, ms, tokens,
                       1e3 * static_cast<double>(tokens) / ms, name_of(dtype));
    }
    if (!found) fail_input("bench --step {}: no such shape; known: {}", options.step, bench_shapes());
    return 0;
}

}  // namespace plimsoll
