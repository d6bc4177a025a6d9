#include "train/bench.h"

#include <nlohmann/json.hpp>

#include "kernels/matmul.h"
#include "model/flops.h"
#include "train/bench_parts.h"
#include "train/device.h"
#include "train/machine.h"
#include "train/speed.h"

namespace plimsoll {

std::string bench_shapes() {
    std::string names;
    for (const StepShape& shape : step_shapes()) names += (names.empty() ? "" : ", ") + std::string(shape.name);
    return names;
}

namespace {

using nlohmann::json;

int64_t rows_at_once(const StepShape& shape, const BenchOptions& options) {
    const int64_t rows = options.micro_batch ? options.micro_batch : shape.micro_batch;
    if (shape.B % rows) fail_input("bench --micro-batch {} does not divide the batch of {} rows", rows, shape.B);
    return rows;
}

double tokens_of(const StepShape& shape) {
    return static_cast<double>(shape.B * shape.network.model.context);
}

// The shape called `step`, or, for "", all that are of a size for the device.
std::vector<StepShape> chosen_shapes(const BenchOptions& options, bool gpu) {
    std::vector<StepShape> shapes = step_shapes();
    std::erase_if(shapes, [&](const StepShape& shape) {
        return options.step.empty() ? shape.gpu != gpu : shape.name != options.step;
    });
    if (shapes.empty()) fail_input("bench --step {}: no such shape; known: {}", options.step, bench_shapes());
    return shapes;
}

void bench_attention(const BenchOptions& options, DType dtype, const Exec& exec) {
    const std::vector<KernelTime> rows = time_attention(parse_attention_shape(options.attention), dtype, exec);
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
    if (options.json) fmt::print("{}\n", json{{"attention", result}}.dump());
}

void bench_everything(const BenchOptions& options, DType dtype, const RunDevice& device) {
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
    for (const StepShape& shape : chosen_shapes(options, device.is_gpu())) {
        const double seconds = step_seconds(shape, dtype, options.steps, rows_at_once(shape, options), exec);
        const double tokens = tokens_of(shape), flops = flops_per_token(shape.network) * tokens / seconds;
        fmt::print("| {} | {} | {:.1f} | {:.0f} | {:.0f} | {:.0f} % |\n", shape.name, tokens, 1e3 * seconds,
                   tokens / seconds, flops / 1e9, 100 * flops / peak);
    }
}

// Times whole steps of one shape. Returns what --json prints, and prints it otherwise.
json bench_step(const StepShape& shape, const BenchOptions& options, DType dtype, const Exec& exec,
                StepProfile* profile) {
    const int64_t rows = rows_at_once(shape, options);
    const double seconds = step_seconds(shape, dtype, options.steps, rows, exec, profile), tokens = tokens_of(shape);
    if (!options.json)
        fmt::print("{}: {:.1f} ms per step of {} tokens, {:.0f} tokens/s, {}\n", shape.name, 1e3 * seconds, tokens,
                   tokens / seconds, name_of(dtype));
    return {{"shape", shape.name},          {"tokens", static_cast<int64_t>(tokens)},
            {"ms_per_step", 1e3 * seconds}, {"tokens_per_second", tokens / seconds},
            {"precision", name_of(dtype)},  {"threads", exec.threads},
            {"micro_batch", rows}};
}

void bench_steps(const BenchOptions& options, DType dtype, const RunDevice& device) {
    StepProfile profile;
    const StepShape shape = chosen_shapes(options, device.is_gpu()).front();
    json result = bench_step(shape, options, dtype, device.exec(), options.breakdown ? &profile : nullptr);
    for (const OpTime& op : profile.ops)
        result["ops"].push_back({{"path", op.path}, {"ms", 1e3 * op.seconds}, {"calls", op.calls}});
    if (options.json) return fmt::print("{}\n", result.dump());
    if (!profile.ops.empty()) fmt::print("\n| op | calls | ms |\n|---|---:|---:|\n");
    for (const OpTime& op : profile.ops) fmt::print("| {} | {} | {:.3f} |\n", op.path, op.calls, 1e3 * op.seconds);
}

void bench_roofline(const BenchOptions& options, DType dtype, const RunDevice& device) {
    if (device.is_gpu()) fail_input("bench --roofline measures the CPU's ceilings; add --device cpu");
    const std::vector<StepShape> shapes = chosen_shapes(options, false);
    const Ceilings ceilings = measure_ceilings(device.exec().threads);
    if (!options.json)
        fmt::print("{}, {} threads, {}, {}\n{}\n", cpu_name(), device.exec().threads, name_of(dtype), matmul_backend(),
                   describe(ceilings));
    json steps = json::array();
    for (const StepShape& shape : shapes) {
        StepProfile profile;
        if (!options.json) fmt::print("\n");
        json step = bench_step(shape, options, dtype, device.exec(), &profile);
        const Roofline roofline = make_roofline(profile, ceilings);
        if (!options.json) fmt::print("\n{}", table(roofline));
        step["roofline"] = to_json(roofline);
        steps.push_back(std::move(step));
    }
    if (options.json) fmt::print("{}\n", json{{"ceilings", to_json(ceilings)}, {"steps", steps}}.dump());
}

}  // namespace

int bench(const BenchOptions& options) {
    const RunDevice device(options.device, threads_of(options.threads));
    const Exec& exec = device.exec();
    if (!options.gemm_cache.empty())
        keep_gemm_algorithms(
            options.gemm_cache, [](const std::string& message) { fmt::print(stderr, "bench: {}\n", message); }, exec);
    const DType dtype = compute_dtype(options.precision, exec.device);
    if (!options.attention.empty())
        bench_attention(options, dtype, exec);
    else if (options.roofline)
        bench_roofline(options, dtype, device);
    else if (options.step.empty())
        bench_everything(options, dtype, device);
    else
        bench_steps(options, dtype, device);
    return 0;
}

}  // namespace plimsoll
