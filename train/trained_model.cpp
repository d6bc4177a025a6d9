#include "train/trained_model.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "data/loader.h"
#include "kernels/error.h"
#include "kernels/residual.h"
#include "train/checkpoint_store.h"
#include "train/export/gguf_export.h"
#include "train/inspect_checkpoint.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPrefix = "parameters/";

// Elements as one row, as elementwise ops take them.
Tensor as_row(Tensor t) {
    return t.reshape({1, t.shape.elements()});
}

std::string prefixed(std::string_view name) {
    return std::string(kPrefix) + std::string(name);
}

NetworkConfig network_of(const RunConfig& config, int64_t vocab) {
    NetworkConfig network{config.model, config.attention, config.loss, vocab};
    network.validate();
    return network;
}

// A checkpoint does not store the number of ids: the embedding has a row for each, and one for each placeholder.
int64_t stored_vocab(const std::string& folder, const Manifest& manifest, const RunConfig& config) {
    const int index = manifest.find(prefixed("wte.weight"));
    if (index < 0) fail_input("{}: has no tensor '{}'", folder, prefixed("wte.weight"));
    const StoredTensor& table = manifest.tensors[static_cast<size_t>(index)];
    const int64_t vocab = table.shape[0] - config.attention.placeholders;
    if (table.shape.rank() != 2 || vocab < 2)
        fail_input("{}: '{}' is {}, wanted a row for each of at least 2 ids and {} placeholders", folder, table.name,
                   table.shape, config.attention.placeholders);
    return vocab;
}

DType stored_dtype(const std::string& folder, const Manifest& manifest) {
    const StoredTensor& table = manifest.tensors[static_cast<size_t>(manifest.find(prefixed("wte.weight")))];
    if (table.dtype != DType::kF32 && table.dtype != DType::kF64)
        fail_input("{}: '{}' is {}, wanted fp32 or fp64", folder, table.name, name_of(table.dtype));
    return table.dtype;
}

void check_count(const std::string& folder, const Manifest& manifest, const ParameterTable& table) {
    for (const StoredTensor& t : manifest.tensors)
        if (t.name.starts_with(kPrefix) && table.find(std::string_view(t.name).substr(kPrefix.size())) < 0)
            fail_input("{}: '{}' is no parameter of the configuration stored beside it", folder, t.name);
}

TrainedModel load_checkpoint(const std::string& folder) {
    const Manifest manifest = read_manifest(folder);
    const RunConfig config = parse_config(manifest.state.config, folder + "/MANIFEST, config");
    const int64_t vocab = stored_vocab(folder, manifest, config);
    TrainedModel model(config, vocab, stored_dtype(folder, manifest));
    check_count(folder, manifest, model.table());
    load_parts(folder, manifest, parameter_parts(model), 0, 1);
    // RUN/checkpoints/step_N
    const fs::path run = fs::absolute(folder).lexically_normal().parent_path().parent_path();
    model.set_origin({.path = folder,
                      .run = fs::path(folder).is_absolute() ? run.string() : fs::proximate(run).string(),
                      .step = manifest.state.step,
                      .tokens = manifest.state.tokens,
                      .data_hash = manifest.state.data_hash,
                      .tensors_hash = fmt::format("{:016x}", tensors_hash(manifest)),
                      .build = manifest.build});
    return model;
}

TrainedModel load_newest(const std::string& run, const std::function<void(const std::string&)>& report) {
    const CheckpointStore store(run);
    const std::vector<int64_t> steps = store.steps();
    if (steps.empty())
        fail_input("'{}' has no checkpoint yet; plimsoll train saves one at the end, and every train.save_every steps",
                   run);
    std::string newest;
    for (size_t i = steps.size(); i-- > 0;) {
        try {
            return load_checkpoint(store.folder(steps[i]));
        } catch (const Error& error) {
            if (error.code() != ExitCode::kBadInput) throw;
            if (newest.empty()) newest = error.what();
            report(error.what());
        }
    }
    fail_input("'{}' holds {} checkpoints, none of them whole; the newest: {}", store.root(), steps.size(), newest);
}

// What names the ids: the file a run keeps, else its data, where they can still be opened.
void add_vocabulary(TrainedModel& model) {
    const std::string file = model.origin().run + "/tokenizer.json";
    std::error_code ignored;
    if (fs::exists(file, ignored)) {
        std::shared_ptr<const Tokenizer> tokenizer = load_tokenizer(file);
        if (tokenizer->vocab_size() > model.network().vocab)
            fail_input("'{}' has {} ids, the model {}", file, tokenizer->vocab_size(), model.network().vocab);
        return model.set_tokenizer(std::move(tokenizer));
    }
    if (model.config().data.source != "bigram_backcopy") return;
    try {
        const Loader data(model.config().data, Split::kTrain, {.T = model.config().model.context});
        std::vector<std::string> labels;
        for (int64_t id = 0; id < data.vocab_size(); ++id) labels.push_back(data.label(static_cast<int32_t>(id)));
        if (data.vocab_size() == model.network().vocab) model.set_labels(std::move(labels));
    } catch (const Error&) {  // its text is not here: ids stay numbers
    }
}

}  // namespace

TrainedModel::TrainedModel(RunConfig config, int64_t vocab, DType dtype)
    : config_(std::move(config)),
      network_(network_of(config_, vocab)),
      table_(network_, StageRange::whole(network_.model)) {
    const Shape shape{table_.buffer_elements()};
    memory_ = allocate_memory(Device::kCpu, shape.elements() * size_of(dtype), "parameters");
    parameters_ = Tensor(memory_.get(), dtype, shape);
    std::memset(memory_.get(), 0, static_cast<size_t>(parameters_.bytes()));  // the gaps between parameters too
}

std::string TrainedModel::label(int32_t id) const {
    if (id >= network_.vocab) return fmt::format("<sink{}>", id - network_.vocab);
    if (tokenizer_) return tokenizer_->label(id);
    if (id >= 0 && static_cast<size_t>(id) < labels_.size()) return labels_[static_cast<size_t>(id)];
    return fmt::format("{}", id);
}

void TrainedModel::keep_logits(int64_t tokens) {
    const int64_t bytes = tokens * network_.total_vocab() * size_of(DType::kF64);
    network_.loss.logits_mib = std::max({network_.loss.logits_mib, LossConfig::kUsualLogitsMib, (bytes >> 20) + 1});
}

std::unique_ptr<Transformer> TrainedModel::transformer(int64_t tokens, Precision precision, const Exec& exec,
                                                       ActivationOptions options) const {
    auto model = std::make_unique<Transformer>(network_, StageRange::whole(network_.model), tokens, precision, options);
    model->allocate(exec.device);
    if (precision.stream() == parameters_.dtype) {
        copy_tensor(model->parameters(), parameters_, exec);
    } else {
        const Memory memory = allocate_memory(Device::kCpu, model->parameters().bytes(), "converted parameters");
        const Tensor converted(memory.get(), precision.stream(), parameters_.shape);
        convert(as_row(converted), as_row(parameters_), {.threads = exec.threads});
        copy_tensor(model->parameters(), converted, exec);
    }
    model->refresh_working(exec);
    return model;
}

std::vector<CheckpointPart> parameter_parts(const TrainedModel& model) {
    std::vector<CheckpointPart> parts;
    for (const Parameter& p : model.table().entries()) {
        const int64_t elements = p.shape.elements();
        parts.push_back({.name = prefixed(p.name),
                         .shape = p.shape,
                         .range = {0, elements},
                         .data = model.parameter(p.name).reshape({elements})});
    }
    return parts;
}

TrainedModel load_trained_model(const std::string& path, const std::function<void(const std::string&)>& report) {
    std::error_code ignored;
    if (!fs::exists(path, ignored))
        fail_input("'{}' does not exist; wanted RUN, RUN/checkpoints/step_N or FILE.gguf", path);
    if (fs::is_regular_file(path, ignored)) return load_gguf_model(path);
    const auto load = [&] {
        if (fs::exists(path + "/MANIFEST", ignored)) return load_checkpoint(path);
        if (fs::exists(path + "/config.toml", ignored) || fs::is_directory(path + "/checkpoints", ignored))
            return load_newest(path, report);
        fail_input("'{}' is neither a run (it has no config.toml) nor a checkpoint (it has no MANIFEST)", path);
    };
    TrainedModel model = load();
    add_vocabulary(model);
    return model;
}

}  // namespace plimsoll
