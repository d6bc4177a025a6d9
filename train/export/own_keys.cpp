#include "train/export/own_keys.h"

#include <algorithm>

#include "kernels/error.h"

namespace plimsoll {
namespace {

constexpr std::string_view kSections[] = {"model", "attention", "loss"};

template <class... F>
struct Overloaded : F... {
    using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

// The fields of the sections that a file has.
std::vector<ConfigField> network_fields(RunConfig& config) {
    std::vector<ConfigField> fields = config_fields(config);
    std::erase_if(fields, [](const ConfigField& field) {
        return std::ranges::find(kSections, field.section) == std::end(kSections);
    });
    return fields;
}

std::string key_of(const ConfigField& field) {
    return "plimsoll." + field.path();
}

void check_known_keys(const GgufFile& file, const std::vector<ConfigField>& fields) {
    for (const auto& [key, value] : file.metadata().entries())
        for (const std::string_view section : kSections)
            if (key.starts_with(fmt::format("plimsoll.{}.", section)) &&
                std::ranges::find(fields, key, key_of) == fields.end())
                fail_input("{}: key '{}' is not known here; the file may be of a later plimsoll", file.path(),
                           brief(key));
}

void read_field(const GgufFile& file, const ConfigField& field) {
    const std::string key = key_of(field);
    if (!file.metadata().find(key)) return;
    const auto list = [&]<class T>(std::vector<T>* values) {
        const auto& array = file.get<GgufArray>(key);
        const auto* stored = std::get_if<std::vector<T>>(&array);
        if (!stored) fail_input("{}: key '{}' is a list of another type", file.path(), key);
        *values = *stored;
    };
    std::visit(Overloaded{[&](bool* v) { *v = file.get<bool>(key); }, [&](int64_t* v) { *v = file.get<int64_t>(key); },
                          [&](double* v) { *v = file.get<double>(key); },
                          [&](std::string* v) { *v = file.get<std::string>(key); },
                          [&](std::vector<std::string>* v) { list(v); }, [&](std::vector<int64_t>* v) { list(v); },
                          [&](std::vector<ParameterGroup>*) { check(false, "{} is not kept in GGUF files", key); }},
               field.value);
    if (const auto* text = std::get_if<std::string*>(&field.value);
        text && !field.choices.empty() && std::ranges::find(field.choices, **text) == field.choices.end())
        fail_input("{}: key '{}' is '{}', wanted one of {}", file.path(), key, brief(**text),
                   fmt::join(field.choices, ", "));
}

// Before anything is allocated for what the keys say: the file must hold as much.
void check_size(const GgufFile& file, const NetworkConfig& network) {
    constexpr int64_t kLeastTensorsOfBlock = 3;
    int64_t stored = 0;
    for (const GgufTensor& tensor : file.tensors()) stored += tensor.elements();
    const auto tensors = static_cast<int64_t>(file.tensors().size());
    if (network.model.layers > tensors / kLeastTensorsOfBlock)
        fail_input("{}: its keys say {} layers, it has {} tensors", file.path(), network.model.layers, tensors);
    const int64_t wanted = ParameterTable(network, StageRange::whole(network.model)).count();
    if (wanted != stored)
        fail_input("{}: its keys describe {} parameters, its tensors hold {}", file.path(), wanted, stored);
}

}  // namespace

void add_own_keys(GgufMetadata& metadata, const TrainedModel& model) {
    RunConfig config = model.config();
    for (const ConfigField& field : network_fields(config)) {
        const std::string key = key_of(field);
        std::visit(Overloaded{[&](const auto* v) { metadata.add(key, *v); },
                              [&](const std::vector<std::string>* v) { metadata.add(key, GgufArray(*v)); },
                              [&](const std::vector<int64_t>* v) { metadata.add(key, GgufArray(*v)); },
                              [&](const std::vector<ParameterGroup>*) { check(false, "GGUF files keep no {}", key); }},
                   std::as_const(field).value);
    }
    metadata.add("plimsoll.vocab_size", static_cast<uint64_t>(model.network().vocab));
    if (model.tokenizer()) metadata.add("plimsoll.tokenizer", model.tokenizer()->to_json());
}

TrainedModel read_own_keys(const GgufFile& file) {
    RunConfig config;
    const std::vector<ConfigField> fields = network_fields(config);
    check_known_keys(file, fields);
    for (const ConfigField& field : fields) read_field(file, field);
    const auto vocab = file.get<uint64_t>("plimsoll.vocab_size");
    if (vocab < 2 || vocab > uint64_t{1} << 24)
        fail_input("{}: plimsoll.vocab_size is {}, wanted 2 to 2^24", file.path(), vocab);
    NetworkConfig network{config.model, config.attention, config.loss, static_cast<int64_t>(vocab)};
    try {
        network.validate();
    } catch (const Error& error) {
        throw Error(error.code(), fmt::format("{}: {}", file.path(), error.what()));
    }
    check_size(file, network);
    TrainedModel model(std::move(config), static_cast<int64_t>(vocab), DType::kF32);
    model.set_origin({.path = file.path(),
                      .run = "",
                      .step = static_cast<int64_t>(file.get<uint64_t>("plimsoll.step")),
                      .tokens = static_cast<int64_t>(file.get<uint64_t>("plimsoll.tokens")),
                      .data_hash = file.get<std::string>("plimsoll.data_hash"),
                      .tensors_hash = file.get<std::string>("plimsoll.tensors_hash"),
                      .build = ""});
    if (file.metadata().find("plimsoll.tokenizer")) {
        std::shared_ptr<const Tokenizer> tokenizer =
            parse_tokenizer(file.get<std::string>("plimsoll.tokenizer"), file.path() + ", plimsoll.tokenizer");
        if (tokenizer->vocab_size() > model.network().vocab)
            fail_input("{}: its tokenizer has {} ids, the model {}", file.path(), tokenizer->vocab_size(), vocab);
        model.set_tokenizer(std::move(tokenizer));
    }
    return model;
}

}  // namespace plimsoll
