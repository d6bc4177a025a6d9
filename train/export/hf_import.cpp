// A folder of Hugging Face's transformers as a run.
#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "train/checkpoint.h"
#include "train/export/hf_export.h"
#include "train/export/safetensors_file.h"
#include "train/json_reader.h"
#include "train/machine.h"
#include "train/run_directory.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kMostConfigBytes = 1 << 20, kMostIndexBytes = 64 << 20;

// The safetensors files of a folder, as one.
class Shards {
  public:
    explicit Shards(const std::string& folder) : folder_(folder) {
        const std::string index = folder + "/model.safetensors.index.json";
        std::error_code ignored;
        if (!fs::exists(index, ignored)) {
            open("model.safetensors");
            return;
        }
        const JsonReader reader(index);
        const json parsed = reader.parse(read_file(index, "index of safetensors files", kMostIndexBytes));
        const json& map = reader.member(parsed, "weight_map");
        if (!map.is_object()) fail_input("{}: 'weight_map' is no object", index);
        for (const auto& [name, file] : map.items()) {
            const std::string& shard = reader.string(map, name.c_str());
            if (shard != fs::path(shard).filename().string() || shard.empty() || shard.starts_with('.'))
                fail_input("{}: '{}' is said to be in '{}'; wanted the name of a file beside the index", index,
                           brief(name), brief(shard));
            open(shard);
            if (!file_of_.contains(name)) fail_input("{}: '{}' is not in '{}'", index, brief(name), shard);
        }
    }

    bool has(const std::string& name) const { return file_of_.contains(name); }
    const SafeTensor& tensor(const std::string& name) const { return file(name).tensors().at(name); }
    const SafetensorsFile& file(const std::string& name) const { return *file_of_.at(name); }
    std::vector<std::string> names() const {
        std::vector<std::string> all;
        for (const auto& [name, file] : file_of_) all.push_back(name);
        return all;
    }

  private:
    void open(const std::string& name) {
        if (!files_.emplace(name, nullptr).second) return;
        auto& file = files_[name] = std::make_unique<SafetensorsFile>(folder_ + "/" + name);
        for (const auto& [tensor, entry] : file->tensors())
            if (!file_of_.emplace(tensor, file.get()).second)
                fail_input("{}: tensor '{}' is in another file too", file->path(), brief(tensor));
    }

    std::string folder_;
    std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
    std::map<std::string, const SafetensorsFile*> file_of_;  // by tensor
};

// What models carry that is no parameter: masks and tables that are computed anew, and a tied head's second copy.
bool is_no_parameter(const std::string& name, bool tied) {
    return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
           name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
}

// Fills the parameters. The first models of GPT-2 have names without "transformer.".
void read_tensors(const Shards& shards, const HfModel& hf, const TrainedModel& model, const std::string& folder) {
    constexpr std::string_view kPrefix = "transformer.";
    const std::vector<MappedTensor> tensors = hf_tensors(hf);
    const bool prefixed = hf.kind != HfKind::kGpt2 || shards.has("transformer.wte.weight");
    std::vector<std::string> used;
    for (const MappedTensor& tensor : tensors) {
        std::string name = tensor.name;
        if (!prefixed && name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
        if (!shards.has(name)) fail_input("{}: has no tensor '{}', which config.json's model has", folder, name);
        if (shards.tensor(name).shape != tensor.shape)
            fail_input("{}: tensor '{}' is ({}), config.json's model wants ({})", shards.file(name).path(), name,
                       fmt::join(shards.tensor(name).shape, ", "), fmt::join(tensor.shape, ", "));
        std::vector<float> values(static_cast<size_t>(tensor.elements()));
        shards.file(name).read(name, values);
        scatter(values, tensor, model, shards.file(name).path());
        used.push_back(name);
    }
    std::ranges::sort(used);
    for (const std::string& name : shards.names())
        if (!std::ranges::binary_search(used, name) && !is_no_parameter(name, hf.network.model.tied))
            fail_input("{}: tensor '{}' is no parameter of config.json's model", shards.file(name).path(), brief(name));
}

// Before parameters are allocated: they must be in the files.
void check_size(const Shards& shards, const HfModel& hf, const std::string& folder) {
    int64_t stored = 0;
    const std::vector<std::string> names = shards.names();
    for (const std::string& name : names) stored += shards.tensor(name).elements();
    if (hf.network.model.layers > static_cast<int64_t>(names.size()))
        fail_input("{}: config.json says {} layers, there are {} tensors", folder, hf.network.model.layers,
                   names.size());
    const int64_t wanted = ParameterTable(hf.network, StageRange::whole(hf.network.model)).count_non_embedding();
    if (wanted / 2 > stored)
        fail_input("{}: config.json describes {} parameters, the files hold {}", folder, wanted, stored);
}

RunConfig run_config(const HfModel& hf, const std::string& folder, const std::string& run) {
    RunConfig config;
    config.run.name = fs::absolute(folder).lexically_normal().filename().string();
    if (config.run.name.empty()) config.run.name = "imported";
    config.run.variant = "imported", config.run.dir = run;
    config.model = hf.network.model, config.attention = hf.network.attention;
    // Nobody says what data belong to it, but they have this vocabulary.
    config.data.source = "shards", config.data.vocab_size = hf.network.vocab;
    config.train.max_steps = 1;
    return config;
}

void save_checkpoint(const TrainedModel& model, const std::string& run) {
    Communicator alone(single_transport());
    Checkpointer checkpointer(run, {.asynchronous = false}, alone);
    checkpointer.take_over();
    TrainingState state;
    state.config = resolved_toml(model.config());
    checkpointer.start(state, parameter_parts(model));
    const std::optional<SaveOutcome> outcome = checkpointer.finish();
    if (!outcome || !outcome->saved) fail_io("{}", outcome ? outcome->text : "the checkpoint was not written");
}

// The tokenizer that plimsoll can read, if there is one; its ids must be the model's.
void save_tokenizer_of(const std::string& folder, const TrainedModel& model, RunDirectory& directory,
                       HfReport& report) {
    std::error_code ignored;
    for (const char* name : {"plimsoll_tokenizer.json", "tokenizer.json"}) {
        const std::string path = folder + "/" + name;
        if (!fs::exists(path, ignored)) continue;
        try {
            const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(path);
            if (tokenizer->vocab_size() > model.network().vocab)
                fail_input("it has {} ids, the model {}", tokenizer->vocab_size(), model.network().vocab);
            save_tokenizer(*tokenizer, directory.file("tokenizer.json"));
        } catch (const Error& error) {
            report.notes.push_back(fmt::format("its tokenizer is not taken over, ids stay numbers: {}", error.what()));
        }
        return;
    }
    report.notes.push_back("no tokenizer: ids stay numbers");
}

}  // namespace

HfReport import_safetensors(const std::string& folder, const std::string& run, const std::string& command) {
    const std::string path = folder + "/config.json";
    const HfModel hf = parse_hf_config(read_file(path, "model configuration", kMostConfigBytes), path);
    const Shards shards(folder);
    check_size(shards, hf, folder);
    const RunConfig config = run_config(hf, folder, run);
    const TrainedModel model(config, hf.network.vocab, DType::kF32);
    read_tensors(shards, hf, model, folder);

    RunDirectory directory(config, Resume::kNever);
    HfReport report{.architecture = hf_config(hf)["architectures"][0],
                    .tensors = static_cast<int64_t>(shards.names().size()),
                    .notes = {}};
    save_tokenizer_of(folder, model, directory, report);
    save_checkpoint(model, run);
    const ModelConfig& m = hf.network.model;
    directory.write_json("run.json", {{"name", config.run.name},
                                      {"variant", config.run.variant},
                                      {"command", command},
                                      {"seed", config.run.seed},
                                      {"build", version_text()},
                                      {"data", "imported from " + folder},
                                      {"vocab", hf.network.vocab},
                                      {"params", model.table().count()},
                                      {"params_non_embedding", model.table().count_non_embedding()},
                                      {"layers", m.layers},
                                      {"heads", m.heads},
                                      {"context", m.context},
                                      {"placeholders", config.attention.placeholders},
                                      {"qk_norm", m.qk_norm},
                                      {"steps", 0},
                                      {"max_steps", 0},
                                      {"status", "imported"}});
    return report;
}

}  // namespace plimsoll
