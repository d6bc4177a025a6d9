#include "data/sources.h"

#include <map>

#include "data/file.h"
#include "data/packed_documents.h"
#include "data/shard_tokenizer.h"
#include "data/token_shards.h"
#include "data/token_stream.h"
#include "data/windows.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

// The texts a configuration names, read once each.
using Texts = std::map<std::string, std::string>;

Texts read_texts(const DataConfig& config) {
    Texts texts;
    for (const auto& specs : {config.training_sources(), config.validation_sources()}) {
        for (const SourceSpec& spec : specs) {
            if (spec.kind != "text" || texts.contains(spec.path)) continue;
            std::string text = read_file(spec.path, spec.key);
            if (text.empty()) fail_input("{} '{}': is empty", spec.key, spec.path);
            texts.emplace(spec.path, std::move(text));
        }
    }
    return texts;
}

// The file named, the one beside the shards, or one made from the texts; null if there are only shards.
std::shared_ptr<const Tokenizer> find_tokenizer(const DataConfig& config, const Texts& texts) {
    FoundTokenizer found;
    if (!config.tokenizer_file.empty()) found = {load_tokenizer(config.tokenizer_file), config.tokenizer_file};
    for (const auto& specs : {config.training_sources(), config.validation_sources()}) {
        for (const SourceSpec& spec : specs) {
            if (spec.kind == "shards") found = same_tokenizer(found, find_shard_tokenizer(spec.path));
        }
    }
    if (found.tokenizer != nullptr) return found.tokenizer;
    if (texts.empty()) return nullptr;
    if (config.tokenizer == "byte") return make_byte_tokenizer(false);
    std::string all;
    for (const auto& [path, text] : texts) all += text;
    return make_char_tokenizer(all, false);
}

int64_t find_vocab_size(const DataConfig& config, const Tokenizer* tokenizer) {
    if (tokenizer == nullptr && config.vocab_size == 0) {
        fail_input(
            "data.vocab_size = 0 and no tokenizer file: set it to the number of ids of the tokenizer that made the "
            "shards (GPT-2: 50257), or set data.tokenizer_file");
    }
    if (tokenizer != nullptr && config.vocab_size != 0 && config.vocab_size != tokenizer->vocab_size()) {
        fail_input("data.vocab_size = {}, but the {} tokenizer has {} ids; leave it at 0", config.vocab_size,
                   tokenizer->kind(), tokenizer->vocab_size());
    }
    return tokenizer == nullptr ? config.vocab_size : tokenizer->vocab_size();
}

std::unique_ptr<const TokenStream> open_stream(const SourceSpec& spec, const DataConfig& config, const Texts& texts,
                                               const std::shared_ptr<const Tokenizer>& tokenizer, int64_t vocab_size) {
    if (spec.kind == "shards") return std::make_unique<TokenShards>(spec.path, vocab_size, spec.key);
    EncodedText text =
        encode_documents(texts.at(spec.path), *tokenizer, config.document_separator, DocumentMark::kIndex);
    return std::make_unique<MemoryTokens>(spec.path, std::move(text), tokenizer);
}

OpenedSources open_bigram_backcopy(const DataConfig& config, const SourceRequest& request) {
    const bool train = request.split == Split::kTrain;
    BigramCounts counts = config.text.empty() ? tiny_shakespeare_bigrams()
                                              : count_bigrams(read_file(config.text, "data.text"), config.text);
    const int64_t samples = !train ? config.val_samples : config.train_samples > 0 ? config.train_samples : -1;
    auto dataset = std::make_unique<BigramBackcopy>(std::move(counts),
                                                    BigramBackcopyOptions{.T = request.T,
                                                                          .task = config.task,
                                                                          .triggers = config.triggers,
                                                                          .delimiter = config.delimiter,
                                                                          .bos = config.bos,
                                                                          .seed = request.seed,
                                                                          .stream = train ? "train" : "validation",
                                                                          .samples = samples});
    OpenedSources opened;
    opened.weights.push_back(1.0);
    if (config.documents == "row") {
        opened.bigram_backcopy = dataset.get();
        opened.datasets.push_back(std::move(dataset));
    } else {
        const uint64_t seed = hash_name(fmt::format("{} {}", request.seed, train ? "train" : "validation"));
        opened.datasets.push_back(
            std::make_unique<PackedDocuments>(std::move(dataset), config.documents, request.T, seed, samples));
    }
    return opened;
}

}  // namespace

OpenedSources open_sources(const DataConfig& config, const SourceRequest& request) {
    config.validate();
    const bool train = request.split == Split::kTrain;
    if (!train && !config.has_validation()) {
        fail_input(
            "no validation split: data.val_fraction = {} and data.val_samples = {}; set one of them, or data.val_text "
            "or data.val_shards",
            config.val_fraction, config.val_samples);
    }
    if (config.source == "bigram_backcopy") return open_bigram_backcopy(config, request);

    const Texts texts = read_texts(config);
    OpenedSources opened;
    opened.tokenizer = find_tokenizer(config, texts);
    const int64_t vocab_size = find_vocab_size(config, opened.tokenizer.get());
    const auto separate = config.validation_sources();
    const auto specs = train || separate.empty() ? config.training_sources() : separate;
    for (const SourceSpec& spec : specs) {
        auto stream = open_stream(spec, config, texts, opened.tokenizer, vocab_size);
        int64_t eot_token = config.eot_token;
        if (eot_token < 0 && !stream->has_document_starts() && opened.tokenizer) {
            eot_token = opened.tokenizer->eot_token();
        }
        const int64_t size = stream->size();
        const int64_t bound =
            separate.empty() ? static_cast<int64_t>(static_cast<double>(size) * (1.0 - config.val_fraction)) : size;
        const bool validates_rest = !train && separate.empty();
        const WindowOrder train_order = config.sampling == "random" ? WindowOrder::kRandom : WindowOrder::kShuffled;
        opened.weights.push_back(spec.weight);
        opened.datasets.push_back(
            std::make_unique<WindowDataset>(std::move(stream), opened.tokenizer,
                                            WindowOptions{.name = fmt::format("source {}", opened.datasets.size()),
                                                          .begin = validates_rest ? bound : 0,
                                                          .end = validates_rest ? size : bound,
                                                          .T = request.T,
                                                          .stride = request.stride,
                                                          .order = train ? train_order : WindowOrder::kInOrder,
                                                          .seed = request.seed,
                                                          .document_mask = config.document_mask,
                                                          .eot_token = eot_token}));
    }
    return opened;
}

}  // namespace plimsoll
