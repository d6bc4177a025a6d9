#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <memory>

#include "kernels/attention.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"
#include "train/bench.h"
#include "train/commands.h"
#include "train/machine.h"

namespace plimsoll {
namespace {

// Whether a shell command succeeds, silently.
bool succeeds(const char* command) {
    return std::system(fmt::format("{} >/dev/null 2>&1", command).c_str()) == 0;
}

void found(const char* what, const std::string& value) {
    fmt::print("  found    {:<18} {}\n", what, value);
}
void missing(const char* what, const char* means, const char* add) {
    fmt::print("  missing  {:<18} {}\n{:29}{}\n", what, means, "", add);
}

}  // namespace

int doctor() {
    fmt::print("plimsoll {}\n", version_text());
    found("CPU", fmt::format("{} ({} threads): {}", cpu_name(), usable_threads(), cpu_features()));
    found("memory", fmt::format("{:.1f} GiB available", static_cast<double>(available_memory()) / (1 << 30)));
    found("precision", matmul_bf16_is_fast() ? "bf16 is faster than fp32 here" : "fp32; bf16 works and is slower here");
    if (matmul_backend().starts_with("plain loops"))
        missing("oneDNN", "matrix products run in plain loops, many times slower",
                "apt-get install libdnnl-dev, then configure and build again");
    else
        found("matrix products", matmul_backend());
    if (const int gpus = usable_gpus(); gpus > 0)
        found("NVIDIA GPU", fmt::format("{} of them, used by this build", gpus));
    else if (succeeds("nvidia-smi"))
        found("NVIDIA GPU", has_cuda_backend() ? "present, but its driver is older than this build's CUDA"
                                               : "present; this build has no CUDA backend (-DPLIMSOLL_CUDA=on)");
    else
        missing("NVIDIA GPU", "training runs on the CPU", "nothing to add");
    if (has_cuda_backend())
        found("CUDA backend", "built");
    else if (succeeds("command -v nvcc || test -x /usr/local/cuda/bin/nvcc"))
        found("CUDA toolkit", "nvcc is there; this build has no CUDA backend (-DPLIMSOLL_CUDA=on)");
    else
        missing("CUDA toolkit", "no CUDA backend", "needed on machines with a GPU only");
    if (succeeds("ldconfig -p | grep -q libnccl"))
        found("NCCL", "present; not used by this build");
    else
        missing("NCCL", "not used by this build", "nothing to add");
    if (succeeds("command -v mpirun"))
        found("MPI", "mpirun is on the PATH: mpirun -n 2 plimsoll train ...");
    else
        missing("MPI", "one process needs none", "apt-get install libopenmpi-dev openmpi-bin");
    for (const char* package : {"pandas", "matplotlib"}) {
        const std::string command = fmt::format("/usr/bin/python3 -c 'import {}'", package);
        if (succeeds(command.c_str()))
            found(fmt::format("python3-{}", package).c_str(), "for scripts/report.py");
        else
            missing(package, "scripts/report.py cannot draw",
                    fmt::format("apt-get install python3-{}", package).c_str());
    }
    return 0;
}

void add_machine_commands(CLI::App& app, int& status) {
    CLI::App* command = app.add_subcommand("bench", "time every kernel and whole training steps on this machine");
    const auto options = std::make_shared<BenchOptions>();
    command->add_option("--step", options->step, "time whole steps of one shape only: " + bench_shapes());
    command->add_option("--config", options->config.file,
                        "time whole steps of a configuration only, on random ids, a document per row; of its section "
                        "run only the names are read");
    command->add_option("--variant", options->config.variant, "with --config: its attention variant")
        ->needs("--config");
    command->add_option("--set", options->config.overrides, "with --config: section.key=value; may be repeated")
        ->allow_extra_args(false)
        ->needs("--config");
    command
        ->add_option(
            "--against", options->against,
            "with --config: another variant, whose steps take turns with these in the same process; --steps is "
            "the number of pairs")
        ->needs("--config");
    command->add_option("--attention", options->attention,
                        "time core attention of one shape only: BxTxNHxNKVxHS, causal, or with :full behind it");
    std::vector<std::string> weightings;
    for (const VariantInfo& info : variants()) weightings.emplace_back(info.name);
    command->add_option("--weighting", options->weightings, "with --attention: of these weightings only")
        ->delimiter(',')
        ->allow_extra_args(false)
        ->check(CLI::IsMember(weightings))
        ->needs("--attention");
    command->add_option("--precision", options->precision, "auto, fp32 or bf16")
        ->check(CLI::IsMember({"auto", "fp32", "bf16"}));
    command->add_option("--device", options->device, "auto, cpu or cuda")
        ->check(CLI::IsMember({"auto", "cpu", "cuda"}));
    command->add_option("--steps", options->steps, "timed steps; the best counts")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    command->add_option("--threads", options->threads, "CPU threads; 0 = all")->check(CLI::NonNegativeNumber);
    command->add_option(
        "--gemm-cache", options->gemm_cache,
        "on a GPU: file that keeps the fastest algorithms of products; what it lacks is measured first");
    command->add_option("--micro-batch", options->micro_batch, "rows computed at once; 0 = the shape's own")
        ->check(CLI::NonNegativeNumber);
    command->add_flag("!--no-clip", options->clip, "with --step: without the gradients' global norm");
    command->add_flag("--breakdown", options->breakdown, "with --step: also what each op takes");
    command->add_flag("--roofline", options->roofline,
                      "on the CPU: each op of a step beside the measured peaks of arithmetic and memory; of --step, or "
                      "of every shape");
    command->add_flag("--json", options->json, "with --step, --config, --attention or --roofline: one JSON object");
    command->callback([=, &status] { status = bench(*options); });
    app.add_subcommand("doctor", "what was found on this machine and what was not")->callback([&status] {
        status = doctor();
    });
}

}  // namespace plimsoll
