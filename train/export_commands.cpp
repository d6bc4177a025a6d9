// The subcommands that take a trained model to other programs.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "data/file.h"
#include "train/commands.h"
#include "train/export/gguf_export.h"
#include "train/export/hf_export.h"
#include "train/logits.h"
#include "train/machine.h"

namespace plimsoll {
namespace {

TrainedModel load(const std::string& path) {
    return load_trained_model(path, [](const std::string& why) { fmt::print(stderr, "passed over {}\n", why); });
}

TensorType type_by_name(const std::string& name) {
    for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16, TensorType::kQ8_0})
        if (name == name_of(type)) return type;
    fail_input("--type {}: wanted f32, f16, bf16 or q8_0", name);
}

struct ExportArguments {
    std::string model, gguf, safetensors, type = "f32", arch = "auto";
};

void print_notes(const std::vector<std::string>& notes) {
    for (const std::string& note : notes) fmt::print("note: {}\n", note);
}

void export_model(const ExportArguments& arguments) {
    if (arguments.gguf.empty() == arguments.safetensors.empty())
        fail_input("plimsoll export: wanted --gguf FILE or --safetensors FOLDER");
    const TrainedModel model = load(arguments.model);
    if (!arguments.safetensors.empty()) {
        const HfReport report = export_safetensors(model, arguments.safetensors, type_by_name(arguments.type));
        fmt::print("{}: {} of step {}, {}, {} tensors\n", arguments.safetensors, model.origin().path,
                   model.origin().step, report.architecture, report.tensors);
        return print_notes(report.notes);
    }
    const GgufExportReport report =
        export_gguf(model, arguments.gguf, {.type = type_by_name(arguments.type), .own = arguments.arch == "plimsoll"});
    fmt::print("{}: {} of step {}, architecture {}, {} tensors, {:.2f} MiB\n", arguments.gguf, model.origin().path,
               model.origin().step, report.architecture, report.tensors, static_cast<double>(report.bytes) / (1 << 20));
    if (!report.since.empty()) fmt::print("llama.cpp as in llama-cpp-python {} has this architecture\n", report.since);
    print_notes(report.notes);
}

struct LogitsArguments {
    std::string model, ids, out, precision = "fp32";
    int64_t threads = 0;
};

void print_logits(const LogitsArguments& arguments) {
    TrainedModel model = load(arguments.model);
    const std::vector<int32_t> ids = parse_ids(read_file(arguments.ids, "ids"), arguments.ids);
    const DType dtype = arguments.precision == "fp64" ? DType::kF64 : DType::kF32;
    const std::vector<double> logits = logits_of(model, ids, dtype, threads_of(arguments.threads));
    const auto rows = static_cast<int64_t>(ids.size());
    write_npy(arguments.out, logits, rows, model.network().total_vocab(), dtype);
    fmt::print("{}: logits ({}, {}) in {} of {}\n", arguments.out, rows, model.network().total_vocab(),
               arguments.precision, model.origin().path);
}

}  // namespace

void add_export_commands(CLI::App& app, const std::string& command_line) {
    {
        CLI::App* command = app.add_subcommand("export", "a trained model as a file for other programs");
        const auto arguments = std::make_shared<ExportArguments>();
        command->add_option("model", arguments->model, "RUN, RUN/checkpoints/step_N or FILE.gguf of plimsoll")
            ->required();
        command->add_option("--gguf", arguments->gguf, "file to write, for llama.cpp");
        command->add_option("--safetensors", arguments->safetensors,
                            "folder to write, for Hugging Face's transformers");
        command->add_option("--type", arguments->type, "of matrices: f32, f16, bf16 or, of GGUF, q8_0")
            ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0"}));
        command
            ->add_option("--arch", arguments->arch,
                         "auto: the architecture of stock llama.cpp that computes the model; plimsoll: any model, for "
                         "plimsoll only")
            ->check(CLI::IsMember({"auto", "plimsoll"}));
        command->callback([=] { export_model(*arguments); });
    }
    {
        CLI::App* command =
            app.add_subcommand("import", "a model of Hugging Face's transformers as a run, to measure it");
        const auto folder = std::make_shared<std::string>(), run = std::make_shared<std::string>();
        command->add_option("folder", *folder, "config.json and model.safetensors")->required();
        command->add_option("--run-dir", *run, "directory of the run to make")->required();
        command->callback([=] {
            const HfReport report = import_safetensors(*folder, *run, command_line);
            fmt::print("{}: {} of {} tensors, as a run that was not trained here\n", *run, report.architecture,
                       report.tensors);
            print_notes(report.notes);
        });
    }
    CLI::App* command = app.add_subcommand("logits", "a model's logits of given ids, for comparison");
    const auto arguments = std::make_shared<LogitsArguments>();
    command->add_option("model", arguments->model, "RUN, RUN/checkpoints/step_N or FILE.gguf of plimsoll")->required();
    command->add_option("--ids", arguments->ids, "file of ids: one document, placeholders included")->required();
    command->add_option("--out", arguments->out, "file to write, NumPy's .npy: (ids, vocabulary)")->required();
    command->add_option("--precision", arguments->precision, "of everything: fp32 or fp64")
        ->check(CLI::IsMember({"fp32", "fp64"}));
    command->add_option("--threads", arguments->threads, "CPU threads; 0 = all this process may use")
        ->check(CLI::Range(0, 4096));
    command->callback([=] { print_logits(*arguments); });
}

}  // namespace plimsoll
