#include "train/export/hf_export.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "data/bpe_file.h"
#include "kernels/error.h"
#include "train/export/safetensors_file.h"
#include "train/export/vocabulary.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// tokenizer.json of the library tokenizers, with the ids that the model has beyond its tokenizer's and what comes
// before a text. A vocabulary of bytes is BPE without merges.
ordered_json tokenizer_json(const Tokenizer& tokenizer, const VocabularyRows& vocabulary) {
    BpeModel bpe{.tokens = {}, .merges = {}, .added = {}, .split = SplitRule::kWhole};
    if (tokenizer.kind() == "bpe") bpe = read_bpe_json(nlohmann::json::parse(tokenizer.to_json()), "the tokenizer");
    for (size_t id = bpe.tokens.size(); id < vocabulary.tokens.size(); ++id) {
        bpe.tokens.push_back(vocabulary.tokens[id]);
        if (vocabulary.types[id] != static_cast<int32_t>(TokenType::kNormal))
            bpe.added.push_back({.text = vocabulary.tokens[id], .id = static_cast<int32_t>(id)});
    }
    ordered_json file = ordered_json::parse(bpe_json(bpe));
    if (vocabulary.add_bos) {
        const std::string& bos = vocabulary.tokens[static_cast<size_t>(vocabulary.bos)];
        const ordered_json first{{"SpecialToken", {{"id", bos}, {"type_id", 0}}}},
            a{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, b{{"Sequence", {{"id", "B"}, {"type_id", 0}}}};
        file["post_processor"] = {
            {"type", "TemplateProcessing"},
            {"single", ordered_json::array({first, a})},
            {"pair", ordered_json::array({first, a, b})},
            {"special_tokens", {{bos, {{"id", bos}, {"ids", {vocabulary.bos}}, {"tokens", {bos}}}}}}};
    }
    return file;
}

void write_json(const std::string& path, const ordered_json& value) {
    write_file_atomically(path, {value.dump(2), "\n"});
}

std::string torch_name(TensorType type) {
    switch (type) {
        case TensorType::kF32:
            return "float32";
        case TensorType::kF16:
            return "float16";
        case TensorType::kBF16:
            return "bfloat16";
        default:
            break;
    }
    fail_input("--type {}: safetensors has f32, f16 and bf16", name_of(type));
}

// Adds the ids of special tokens to config.json and writes the tokenizer's files.
void add_tokenizer(const TrainedModel& model, const std::string& folder, ordered_json& config, HfReport& report) {
    config["bos_token_id"] = nullptr, config["eos_token_id"] = nullptr;
    const int64_t placeholders = model.network().attention.placeholders, vocab = model.network().vocab;
    if (placeholders == 1) config["bos_token_id"] = vocab;
    if (placeholders > 0)
        report.notes.push_back(fmt::format(
            "every text must begin with {} {}", placeholders == 1 ? "id" : "ids",
            placeholders == 1 ? fmt::format("{}", vocab) : fmt::format("{} to {}", vocab, vocab + placeholders - 1)));
    if (!model.tokenizer()) {
        report.notes.push_back("no tokenizer: the model takes token ids only");
        return;
    }
    const VocabularyRows vocabulary = vocabulary_rows(model);
    ordered_json tokenizer_config{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                  {"clean_up_tokenization_spaces", false}};
    if (vocabulary.add_bos) tokenizer_config["bos_token"] = vocabulary.tokens[static_cast<size_t>(vocabulary.bos)];
    if (model.tokenizer()->eot_token() >= 0) {
        config["eos_token_id"] = model.tokenizer()->eot_token();
        tokenizer_config["eos_token"] = vocabulary.tokens[static_cast<size_t>(model.tokenizer()->eot_token())];
    }
    write_json(folder + "/tokenizer.json", tokenizer_json(*model.tokenizer(), vocabulary));
    write_json(folder + "/tokenizer_config.json", tokenizer_config);
    save_tokenizer(*model.tokenizer(), folder + "/plimsoll_tokenizer.json");
}

}  // namespace

HfReport export_safetensors(const TrainedModel& model, const std::string& folder, TensorType type) {
    const HfModel hf = hf_model(model.network());
    ordered_json config = hf_config(hf);
    config["torch_dtype"] = torch_name(type);
    std::error_code error;
    fs::create_directories(folder, error);
    if (error) fail_io("cannot make folder '{}': {}", folder, error.message());
    HfReport report{.architecture = config["architectures"][0], .tensors = 0, .notes = {}};
    if (hf.kind == HfKind::kQwen3Gated)
        report.notes.push_back(
            "the gate is computed by the modelling code of github.com/qiuzh20/gated_attention, not by transformers' "
            "own "
            "Qwen3: put modeling_qwen3.py and configuration_qwen3.py beside config.json");
    add_tokenizer(model, folder, config, report);
    const std::vector<MappedTensor> tensors = hf_tensors(hf);
    std::vector<SafeTensorPlan> plans;
    for (const MappedTensor& tensor : tensors)
        plans.push_back({.name = tensor.name, .shape = tensor.shape, .type = type});
    write_safetensors(folder + "/model.safetensors", plans,
                      {{"format", "pt"},
                       {"plimsoll_step", fmt::format("{}", model.origin().step)},
                       {"plimsoll_tensors_hash", model.origin().tensors_hash}},
                      [&](size_t i) { return gather(model, tensors[i]); });
    write_json(folder + "/config.json", config);
    report.tensors = static_cast<int64_t>(tensors.size());
    return report;
}

}  // namespace plimsoll
