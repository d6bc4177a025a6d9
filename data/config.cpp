#include "data/config.h"

#include <cmath>
#include <sstream>

#include "kernels/error.h"

namespace plimsoll {
namespace {

SourceSpec parse_source(const std::string& line) {
    std::istringstream words(line);
    SourceSpec spec{.key = "data.sources"};
    if (words >> spec.weight >> spec.kind && std::getline(words >> std::ws, spec.path) && spec.weight > 0.0 &&
        std::isfinite(spec.weight) && (spec.kind == "text" || spec.kind == "shards")) {
        return spec;
    }
    fail_input(
        "data.sources: '{}', wanted 'WEIGHT text|shards PATH' with a positive weight, such as '0.7 shards web/*.bin'",
        line);
}

void require_choice(std::string_view key, const std::string& value, std::initializer_list<std::string_view> legal) {
    std::string names;
    for (const std::string_view name : legal) {
        if (value == name) return;
        names += fmt::format("{}'{}'", names.empty() ? "" : ", ", name);
    }
    fail_input("data.{} = '{}': wanted one of {}", key, value, names);
}

// Checks each choice against the list in the visitor, so that the legal values stand in one place.
struct ChoiceChecker {
    template <class Field>
    void field(std::string_view, const Field&, std::string_view) {}
    void list(std::string_view, const std::vector<std::string>&, std::string_view) {}
    void choice(std::string_view key, const std::string& value, std::initializer_list<std::string_view> legal,
                std::string_view) {
        require_choice(key, value, legal);
    }
};

}  // namespace

std::vector<SourceSpec> DataConfig::training_sources() const {
    std::vector<SourceSpec> specs;
    if (source == "text") specs.push_back({.key = "data.text", .kind = "text", .path = text});
    if (source == "shards") specs.push_back({.key = "data.shards", .kind = "shards", .path = shards});
    if (source == "mixture") {
        for (const std::string& line : sources) specs.push_back(parse_source(line));
    }
    return specs;
}

std::vector<SourceSpec> DataConfig::validation_sources() const {
    std::vector<SourceSpec> specs;
    if (!val_text.empty()) specs.push_back({.key = "data.val_text", .kind = "text", .path = val_text});
    if (!val_shards.empty()) specs.push_back({.key = "data.val_shards", .kind = "shards", .path = val_shards});
    return specs;
}

bool DataConfig::has_validation() const {
    if (source == "bigram_backcopy") return val_samples > 0;
    return val_fraction > 0.0 || !validation_sources().empty();
}

void DataConfig::validate() const {
    visit(*this, ChoiceChecker{});
    if (source == "text" && text.empty())
        fail_input("data.text is empty; data.source = 'text' needs the path of a text file");
    if (source == "shards" && shards.empty()) {
        fail_input("data.shards is empty; data.source = 'shards' needs a pattern such as 'fineweb/train_*.bin'");
    }
    if ((source == "mixture") == sources.empty()) {
        fail_input("data.sources has {} lines with data.source = '{}'; sources belong to 'mixture', and it needs them",
                   sources.size(), source);
    }
    training_sources();  // refuses malformed lines
    if (!(val_fraction >= 0.0 && val_fraction < 1.0)) {
        fail_input("data.val_fraction = {}: wanted at least 0 and less than 1", val_fraction);
    }
    if (val_samples < 0) fail_input("data.val_samples = {}: wanted 0 or more", val_samples);
    if (train_samples < 0)
        fail_input("data.train_samples = {}: wanted 0 (fresh sequences without end) or more", train_samples);
    if (train_samples > 0 && (source != "bigram_backcopy" || documents != "row"))
        fail_input(
            "data.train_samples = {} with data.source = '{}' and data.documents = '{}': only bigram_backcopy draws as "
            "many "
            "sequences as it is told, a row each; shorten the text or the shards instead",
            train_samples, source, documents);
    if (vocab_size < 0) fail_input("data.vocab_size = {}: wanted 0 (the tokenizer's) or more", vocab_size);
    if (eot_token < -1) fail_input("data.eot_token = {}: wanted -1 (none configured) or an id", eot_token);
    if (end == "stop" && sampling == "random") {
        fail_input("data.end = 'stop' with data.sampling = 'random': random starts have no end; use 'windows'");
    }
    if (source != "bigram_backcopy") {
        if (documents != "row")
            fail_input("data.documents = '{}' with data.source = '{}', whose documents are as long as they are",
                       documents, source);
        if (task != "bb") fail_input("data.task = '{}' with data.source = '{}'; it is bigram_backcopy's", task, source);
        return;
    }
    if (triggers < 0 || triggers > 255)
        fail_input("data.triggers = {}: wanted 0 to 255, and fewer than the text has distinct characters", triggers);
    if (task == "delimiter" && !(delimiter > 0 && delimiter < 1))
        fail_input("data.delimiter = {}: wanted a probability above 0 and below 1", delimiter);
    if (document_mask != (documents != "row"))
        fail_input(
            "data.document_mask = {} with data.documents = '{}': a bigram_backcopy row is one document, or packed with "
            "masked ones ('pretrain', 'prolong')",
            document_mask, documents);
    if (end == "stop")
        fail_input("data.end = 'stop': bigram_backcopy draws fresh sequences without end; use train.max_steps");
    if (!validation_sources().empty()) {
        fail_input(
            "data.val_text or data.val_shards: bigram_backcopy draws its validation sequences; use data.val_samples");
    }
}

}  // namespace plimsoll
