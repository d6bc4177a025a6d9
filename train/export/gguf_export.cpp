#include "train/export/gguf_export.h"

#include <algorithm>
#include <filesystem>

#include "kernels/error.h"
#include "train/export/gguf_tensors.h"
#include "train/export/own_keys.h"
#include "train/export/vocabulary.h"

namespace plimsoll {
namespace {

// llama.cpp has windows in these architectures whatever the model: one that no text reaches stands for none.
constexpr uint32_t kEndlessWindow = 1 << 20;

uint32_t u32(int64_t value) {
    check(value >= 0 && value <= UINT32_MAX, "{} does not fit 32 bits", value);
    return static_cast<uint32_t>(value);
}

// general.file_type: llama_ftype.
uint32_t file_type(TensorType type) {
    switch (type) {
        case TensorType::kF32:
            return 0;
        case TensorType::kF16:
            return 1;
        case TensorType::kQ8_0:
            return 7;
        case TensorType::kBF16:
            return 32;
        default:
            break;
    }
    throw Error(ExitCode::kInternal, fmt::format("no file type for {}", name_of(type)));
}

std::string name_of_model(const TrainedModel& model) {
    return fmt::format("{}/{}", model.config().run.name, model.config().run.variant);
}

void add_general_keys(GgufMetadata& metadata, const TrainedModel& model, const std::string& architecture,
                      TensorType type, const std::string& description) {
    metadata.add("general.architecture", architecture);
    metadata.add("general.type", std::string("model"));
    metadata.add("general.name", name_of_model(model));
    metadata.add("general.description", description);
    metadata.add("general.file_type", file_type(type));
    if (type == TensorType::kQ8_0) metadata.add("general.quantization_version", uint32_t{2});
    const ModelOrigin& origin = model.origin();
    metadata.add("plimsoll.step", static_cast<uint64_t>(origin.step));
    metadata.add("plimsoll.tokens", static_cast<uint64_t>(origin.tokens));
    metadata.add("plimsoll.tensors_hash", origin.tensors_hash);
    metadata.add("plimsoll.data_hash", origin.data_hash);
}

// The keys of architectures whose attention may be windowed.
void add_window_keys(GgufMetadata& metadata, const std::string& a, const GgufArchitecture& architecture,
                     const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    std::vector<bool> pattern;
    int64_t window = kEndlessWindow;
    for (int64_t layer = 0; layer < m.layers; ++layer) {
        const int64_t here = network.attention.spec(layer, m).window;
        if (here > 0) window = here;
        pattern.push_back(here > 0 || !has_windows(network));
    }
    const bool hybrid = std::find(pattern.begin(), pattern.end(), false) != pattern.end();
    metadata.add(a + "attention.sliding_window", u32(std::min<int64_t>(window, kEndlessWindow)));
    metadata.add(a + "attention.sliding_window_pattern", std::move(pattern));
    metadata.add(a + "expert_feed_forward_length", uint32_t{0});
    metadata.add(a + "rope.freq_base_swa", static_cast<float>(m.rope_theta));
    // step35 rotates half of rope.dimension_count in layers without a window.
    const bool doubled = hybrid && architecture.name == "step35";
    metadata.add(a + "rope.dimension_count", u32((doubled ? 2 : 1) * m.head_channels()));
    metadata.add(a + "rope.dimension_count_swa", u32(m.head_channels()));
}

// The keys of the recurrent block that qwen35 must have.
void add_recurrent_keys(GgufMetadata& metadata, const std::string& a, const ModelConfig& m) {
    // Text has the positions (p, p, p, 0): no channel may belong to the fourth.
    const auto n = static_cast<int32_t>(m.head_channels() / 2);
    metadata.add(a + "rope.dimension_sections", std::vector<int32_t>{(n + 2) / 3, (n + 1) / 3, n / 3, 0});
    metadata.add(a + "rope.dimension_count", u32(m.head_channels()));
    metadata.add(a + "ssm.conv_kernel", u32(kRecurrentKernel));
    metadata.add(a + "ssm.inner_size", u32(kRecurrentState));
    metadata.add(a + "ssm.state_size", u32(kRecurrentState));
    metadata.add(a + "ssm.time_step_rank", uint32_t{1});
    metadata.add(a + "ssm.group_count", uint32_t{1});
    std::vector<bool> recurrent(static_cast<size_t>(m.layers + 1), false);
    recurrent.back() = true;
    metadata.add(a + "attention.recurrent_layers", std::move(recurrent));
    metadata.add(a + "full_attention_interval", uint32_t{1});
}

void add_stock_keys(GgufMetadata& metadata, const GgufArchitecture& architecture, const NetworkConfig& network) {
    const ModelConfig& m = network.model;
    const std::string a = std::string(architecture.name) + ".";
    const bool gpt2 = architecture.backbone == GgufArchitecture::Backbone::kGpt2,
               qwen35 = architecture.name == "qwen35";
    metadata.add(a + "vocab_size", u32(network.total_vocab()));
    metadata.add(a + "context_length", u32(m.context));
    metadata.add(a + "embedding_length", u32(m.channels));
    metadata.add(a + "block_count", u32(m.layers + (qwen35 ? 1 : 0)));
    metadata.add(a + "feed_forward_length", u32(m.hidden()));
    metadata.add(a + "attention.head_count", u32(m.heads));
    metadata.add(a + "attention.head_count_kv", u32(m.key_heads()));
    if (gpt2) {
        metadata.add(a + "attention.layer_norm_epsilon", static_cast<float>(m.norm_eps));
        return;
    }
    metadata.add(a + "attention.layer_norm_rms_epsilon", static_cast<float>(m.norm_eps));
    metadata.add(a + "attention.key_length", u32(m.head_channels()));
    metadata.add(a + "attention.value_length", u32(m.head_channels()));
    metadata.add(a + "rope.freq_base", static_cast<float>(m.rope_theta));
    if (architecture.windows)
        add_window_keys(metadata, a, architecture, network);
    else if (qwen35)
        add_recurrent_keys(metadata, a, m);
    else
        metadata.add(a + "rope.dimension_count", u32(m.head_channels()));
}

// Vectors, and what llama.cpp reads as f32 only.
bool stays_f32(const MappedTensor& tensor) {
    return tensor.shape.size() < 2 || tensor.name.ends_with("ssm_conv1d.weight") ||
           tensor.name == "position_embd.weight" || tensor.name == "wpe.weight";
}

TensorType type_of(const MappedTensor& tensor, TensorType wanted) {
    if (stays_f32(tensor)) return TensorType::kF32;
    const bool whole_blocks = tensor.shape.back() % info_of(wanted).block == 0;
    return whole_blocks ? wanted : TensorType::kF16;
}

// What a runner must know beyond the file's keys.
std::vector<std::string> notes_of(const TrainedModel& model) {
    std::vector<std::string> notes;
    if (!model.tokenizer()) {
        notes.push_back("no tokenizer: the file takes token ids only");
        if (model.network().attention.placeholders == 1)
            notes.push_back(fmt::format("every text must begin with id {}, the placeholder", model.network().vocab));
        return notes;
    }
    const VocabularyRows vocabulary = vocabulary_rows(model);
    if (vocabulary.add_bos)
        notes.push_back(fmt::format("every text must begin with id {}, the placeholder; runners do so (add_bos_token)",
                                    vocabulary.bos));
    if (!vocabulary.has_eos)
        notes.push_back(
            fmt::format("the model knows no end of text, GGUF wants one: it names id {} ('{}'), so run with "
                        "--ignore-eos",
                        vocabulary.eos, model.label(vocabulary.eos)));
    return notes;
}

}  // namespace

GgufExportReport export_gguf(const TrainedModel& model, const std::string& path, const GgufExportOptions& options) {
    const NetworkConfig& network = model.network();
    const GgufArchitecture* const stock = options.own ? nullptr : &gguf_architecture(network);
    GgufExportReport report;
    report.architecture = stock ? stock->name : kOwnArchitecture;
    if (stock) report.since = stock->since;
    report.notes = notes_of(model);
    std::string description = fmt::format("plimsoll, step {}", model.origin().step);
    for (const std::string& note : report.notes) description += "; " + note;
    if (!stock) description += "; runs in plimsoll only";
    GgufMetadata metadata;
    add_general_keys(metadata, model, report.architecture, options.type, description);
    if (stock)
        add_stock_keys(metadata, *stock, network);
    else
        add_own_keys(metadata, model);
    if (stock && model.tokenizer() && model.tokenizer()->vocabulary().pre.empty())
        fail_input(
            "llama.cpp has no name for how this model's tokenizer cuts texts; --arch plimsoll and --safetensors "
            "keep it");
    add_tokenizer_keys(metadata, model);

    const std::vector<MappedTensor> tensors = stock ? stock_tensors(*stock, network) : own_tensors(network);
    std::vector<GgufTensorPlan> plans;
    for (const MappedTensor& tensor : tensors)
        plans.push_back({.name = tensor.name, .shape = tensor.shape, .type = type_of(tensor, options.type)});
    write_gguf(path, metadata, plans, [&](size_t i) { return gather(model, tensors[i]); });
    report.tensors = static_cast<int64_t>(tensors.size());
    report.bytes = static_cast<int64_t>(std::filesystem::file_size(path));
    return report;
}

TrainedModel load_gguf_model(const std::string& path) {
    const GgufFile file(path);
    const std::string& architecture = file.get<std::string>("general.architecture");
    if (architecture != kOwnArchitecture)
        fail_input(
            "{}: architecture '{}', wanted '{}'; files for llama.cpp are not read back: load the run they came from, "
            "or "
            "export it again with --arch plimsoll",
            path, brief(architecture), kOwnArchitecture);
    TrainedModel model = read_own_keys(file);
    const std::vector<MappedTensor> tensors = own_tensors(model.network());
    for (const MappedTensor& tensor : tensors) {
        const GgufTensor* stored = file.find(tensor.name);
        if (!stored) fail_input("{}: has no tensor '{}'", path, tensor.name);
        if (stored->shape != tensor.shape)
            fail_input("{}: tensor '{}' is ({}), its keys want ({})", path, tensor.name, fmt::join(stored->shape, ", "),
                       fmt::join(tensor.shape, ", "));
        std::vector<float> values(static_cast<size_t>(tensor.elements()));
        file.read(*stored, values);
        scatter(values, tensor, model, path);
    }
    for (const GgufTensor& stored : file.tensors())
        if (model.table().find(stored.name) < 0)
            fail_input("{}: tensor '{}' is no parameter of its network", path, brief(stored.name));
    return model;
}

void inspect_gguf(const std::string& path, const std::function<void(const std::string&)>& write) {
    const GgufFile file(path);
    int64_t elements = 0;
    for (const auto& [key, value] : file.metadata().entries())
        write(fmt::format("{} = {}\n", brief(key, 200), shown(value)));
    for (const GgufTensor& tensor : file.tensors()) {
        elements += tensor.elements();
        write(fmt::format("{} ({}) {}, {} bytes\n", brief(tensor.name, 200), fmt::join(tensor.shape, ", "),
                          find_type(tensor.type)->name, tensor.bytes));
    }
    write(fmt::format("{} keys, {} tensors, {} elements\n", file.metadata().entries().size(), file.tensors().size(),
                      elements));
}

}  // namespace plimsoll
