#include "train/bench.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/matmul.h"
#include "model/flops.h"
#include "train/bench_parts.h"
#include "train/device.h"
#include "train/machine.h"
#include "train/roofline.h"
#include "train/speed.h"

namespace plimsoll {
namespace {

using nlohmann::json;

double median(std::vector<double> values) {
    std::ranges::sort(values);
    const size_t n = values.size();
    return (values[(n - 1) / 2] + values[n / 2]) / 2;
}

int bench_attention(const BenchOptions& options, DType dtype, const Exec& exec) {
    const std::vector<KernelTime> rows =
        time_attention(parse_attention_shape(options.attention), options.weightings, dtype, exec);
    if (!options.json) fmt::print("| kernel | size | ms | TFLOP/s |\n|---|---|---:|---:|\n");
    json result = json::array();
    for (const KernelTime& row : rows) {
        result.push_back({{"kernel", row.name},
                          {"shape", row.shape},
                          {"ms", 1e3 * row.seconds},
                          {"tflops", 1e-12 * row.flops / row.seconds}});
        if (!options.json)
            fmt::print("| {} | {} | {:.3f} | {:.2f} |\n", row.name, row.shape, 1e3 * row.seconds,
                       1e-12 * row.flops / row.seconds);
    }
    if (options.json) fmt::print("{}\n", json{{"attention", result}, {"precision", name_of(dtype)}}.dump());
    return 0;
}

int bench_everything(const std::vector<StepShape>& shapes, const BenchOptions& options, DType dtype,
                     const RunDevice& device) {
    const Exec& exec = device.exec();
    const double peak = device.is_gpu() ? matmul_flops_per_second(dtype, 8192, 8192, 8192, exec)
                                        : matmul_flops_per_second(dtype, 1024, 4096, 1024, exec);
    const double memory = memory_bytes_per_second(exec);
    if (device.is_gpu()) fmt::print("{}\n", device.describe());
    fmt::print("{}, {} threads, {}, {}\nmeasured peak: {:.0f} GFLOP/s (product), {:.1f} GB/s (memory)\n\n", cpu_name(),
               exec.threads, name_of(dtype), matmul_backend(), peak / 1e9, memory / 1e9);
    fmt::print("| kernel | size | ms | GFLOP/s | GB/s | share of peak |\n|---|---|---:|---:|---:|---:|\n");
    for (const KernelTime& row : time_kernels(dtype, exec)) {
        const double flops = row.flops / row.seconds, bytes = row.bytes / row.seconds;
        fmt::print("| {} | {} | {:.3f} | {} | {:.1f} | {:.0f} % {} |\n", row.name, row.shape, 1e3 * row.seconds,
                   row.flops > 0 ? fmt::format("{:.0f}", flops / 1e9) : "", bytes / 1e9,
                   100 * (row.flops > 0 ? flops / peak : bytes / memory), row.flops > 0 ? "product" : "memory");
    }
    fmt::print("\n| step | tokens | ms | tokens/s | GFLOP/s | share of peak |\n|---|---:|---:|---:|---:|---:|\n");
    for (const StepShape& shape : shapes) {
        const double ms = std::ranges::min(step_milliseconds(
            shape, dtype, options.steps, options.micro_batch ? options.micro_batch : shape.micro_batch, exec));
        const double tokens = static_cast<double>(shape.B * shape.network.model.context);
        const double flops = flops_per_token(shape.network) * tokens / (1e-3 * ms);
        fmt::print("| {} | {} | {:.1f} | {:.0f} | {:.0f} | {:.0f} % |\n", shape.name, tokens, ms, tokens / (1e-3 * ms),
                   flops / 1e9, 100 * flops / peak);
    }
    return 0;
}

// Times whole steps. Returns what --json prints, and prints it otherwise. `profile` as of step_milliseconds.
json time_steps(const StepShape& shape, const BenchOptions& options, DType dtype, const Exec& exec,
                StepProfile* profile) {
    const int64_t rows = options.micro_batch ? options.micro_batch : shape.micro_batch;
    if (shape.B % rows) fail_input("bench --micro-batch {} does not divide the batch of {} rows", rows, shape.B);
    const int64_t tokens = shape.B * shape.network.model.context;
    const std::vector<double> times = step_milliseconds(shape, dtype, options.steps, rows, exec, profile);
    const double ms = std::ranges::min(times), speed = 1e3 * static_cast<double>(tokens) / ms;
    if (!options.json)
        fmt::print("{}: {:.1f} ms per step of {} tokens, {:.0f} tokens/s, {}\n", shape.name, ms, tokens, speed,
                   name_of(dtype));
    return {{"shape", shape.name},
            {"tokens", tokens},
            {"ms_per_step", ms},
            {"ms_median", median(times)},
            {"ms", times},
            {"tokens_per_second", speed},
            {"precision", name_of(dtype)},
            {"threads", exec.threads},
            {"micro_batch", rows}};
}

int bench_step(const StepShape& shape, const BenchOptions& options, DType dtype, const Exec& exec) {
    StepProfile profile;
    json result = time_steps(shape, options, dtype, exec, options.breakdown ? &profile : nullptr);
    for (const OpTime& op : profile.ops)
        result["ops"].push_back({{"path", op.path}, {"ms", 1e3 * op.seconds}, {"calls", op.calls}});
    if (options.json) {
        fmt::print("{}\n", result.dump());
        return 0;
    }
    if (!profile.ops.empty()) fmt::print("\n| op | calls | ms |\n|---|---:|---:|\n");
    for (const OpTime& op : profile.ops) fmt::print("| {} | {} | {:.3f} |\n", op.path, op.calls, 1e3 * op.seconds);
    return 0;
}

int bench_roofline(const std::vector<StepShape>& shapes, const BenchOptions& options, DType dtype,
                   const RunDevice& device) {
    if (device.is_gpu()) fail_input("bench --roofline measures the CPU's ceilings; add --device cpu");
    const Ceilings ceilings = measure_ceilings(device.exec().threads);
    if (!options.json)
        fmt::print("{}, {} threads, {}, {}\n{}\n", cpu_name(), device.exec().threads, name_of(dtype), matmul_backend(),
                   describe(ceilings));
    json steps = json::array();
    for (const StepShape& shape : shapes) {
        StepProfile profile;
        if (!options.json) fmt::print("\n");
        json step = time_steps(shape, options, dtype, device.exec(), &profile);
        const Roofline roofline = make_roofline(profile, ceilings);
        if (!options.json) fmt::print("\n{}", table(roofline));
        step["roofline"] = to_json(roofline);
        steps.push_back(std::move(step));
    }
    if (options.json) fmt::print("{}\n", json{{"ceilings", to_json(ceilings)}, {"steps", steps}}.dump());
    return 0;
}

int bench_pairs(const StepShape& shape, const StepShape& other, const BenchOptions& options, DType dtype,
                const Exec& exec) {
    std::vector<double> ours, theirs, ratios;
    for (const auto& [first, second] : paired_step_milliseconds(shape, other, dtype, options.steps, exec))
        ours.push_back(first), theirs.push_back(second), ratios.push_back(first / second);
    const int64_t tokens = shape.B * shape.network.model.context;
    if (options.json)
        fmt::print("{}\n", json{{"variant", shape.name},
                                {"against", other.name},
                                {"ms", ours},
                                {"ms_against", theirs},
                                {"flops_per_token", flops_per_token(shape.network)},
                                {"flops_per_token_against", flops_per_token(other.network)},
                                {"tokens", tokens},
                                {"precision", name_of(dtype)},
                                {"threads", exec.threads}}
                               .dump());
    else
        fmt::print("{}: {:.1f} ms per step of {} tokens, {:.3f} times the {:.1f} ms of {} (medians of {} pairs), {}\n",
                   shape.name, median(ours), tokens, median(ratios), median(theirs), other.name, options.steps,
                   name_of(dtype));
    return 0;
}

}  // namespace

std::string bench_shapes() {
    std::string names;
    for (const StepShape& shape : step_shapes(DType::kBF16)) names += (names.empty() ? "" : ", ") + shape.name;
    return names;
}

int bench(const BenchOptions& options) {
    const RunDevice device(options.device, threads_of(options.threads));
    const Exec& exec = device.exec();
    if (!options.gemm_cache.empty())
        keep_gemm_algorithms(
            options.gemm_cache, [](const std::string& message) { fmt::print(stderr, "bench: {}\n", message); }, exec);
    const DType dtype = compute_dtype(options.precision, exec.device);
    if (!options.attention.empty()) return bench_attention(options, dtype, exec);
    if (!options.config.file.empty()) {
        const StepShape shape = step_shape(load_config(options.config));
        if (options.against.empty()) return bench_step(shape, options, dtype, exec);
        ConfigSources other = options.config;
        other.variant = options.against;
        return bench_pairs(shape, step_shape(load_config(other)), options, dtype, exec);
    }
    std::vector<StepShape> shapes = step_shapes(dtype);
    std::erase_if(shapes, [&](const StepShape& shape) {
        return options.step.empty() ? shape.gpu != device.is_gpu() : shape.name != options.step;
    });
    if (shapes.empty()) fail_input("bench --step {}: no such shape; known: {}", options.step, bench_shapes());
    for (StepShape& shape : shapes) shape.clip = options.clip;
    if (options.roofline) return bench_roofline(shapes, options, dtype, device);
    if (options.step.empty()) return bench_everything(shapes, options, dtype, device);
    return bench_step(shapes.front(), options, dtype, exec);
}

}  // namespace plimsoll
