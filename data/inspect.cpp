#include "data/inspect.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "data/document_index.h"
#include "data/loader.h"
#include "data/shard_tokenizer.h"
#include "data/token_shards.h"
#include "data/tokenizer.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

std::shared_ptr<const Tokenizer> find_tokenizer(const std::string& pattern, const std::string& file) {
    if (!file.empty()) return load_tokenizer(file);
    return find_shard_tokenizer(pattern).tokenizer;
}

// A label for a table: the id, and what it stands for if a tokenizer can tell.
std::string name_id(uint32_t id, const Tokenizer* tokenizer) {
    if (tokenizer == nullptr || id >= tokenizer->vocab_size()) return fmt::format("{}", id);
    return fmt::format("{} '{}'", id, tokenizer->label(static_cast<int32_t>(id)));
}

std::string inspect_shard(const TokenShard& shard, const Tokenizer* tokenizer, int64_t vocab_size, int64_t eot_token,
                          const InspectOptions& options) {
    std::map<uint32_t, int64_t> counts;
    for (int64_t offset = 0; offset < shard.size(); ++offset) ++counts[shard.raw(offset)];
    if (vocab_size > 0) {  // the ordinary read says which token is out of range
        std::vector<int32_t> ids(static_cast<size_t>(std::min<int64_t>(shard.size(), 1 << 16)));
        for (int64_t offset = 0; offset < shard.size(); offset += static_cast<int64_t>(ids.size())) {
            const auto left = static_cast<size_t>(shard.size() - offset);
            shard.read(offset, std::span(ids).first(std::min(ids.size(), left)), vocab_size);
        }
    }
    const ShardFormat& format = shard.format();
    std::string text = fmt::format(
        "{}\n  header     magic {} version {}, {}-bit ids\n  size       {} bytes, {} tokens\n", shard.path(),
        format.magic, format.version, 8 * format.token_bytes, shard.bytes().size(), shard.size());
    if (shard.size() == 0) return text;
    text += fmt::format("  ids        {} to {}, {} different{}\n", counts.begin()->first, counts.rbegin()->first,
                        counts.size(), vocab_size > 0 ? fmt::format(", all below {}", vocab_size) : ", not checked");
    if (std::filesystem::exists(document_index_path(shard.path()))) {
        text +=
            fmt::format("  documents  {} by the index file\n", read_document_index(shard.path(), shard.size()).size());
    } else if (eot_token >= 0) {
        const auto found = counts.find(static_cast<uint32_t>(eot_token));
        text += fmt::format("  documents  {} by id {}\n", found == counts.end() ? 0 : found->second, eot_token);
    } else {
        text += "  documents  unknown: no index file, no end-of-text id\n";
    }
    std::vector<std::pair<uint32_t, int64_t>> ranked(counts.begin(), counts.end());
    std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
    text += "  frequent  ";
    for (size_t i = 0; i < std::min(ranked.size(), static_cast<size_t>(options.most_frequent)); ++i) {
        text += fmt::format("{} {} ({:.2f}%)", i == 0 ? "" : ",", name_id(ranked[i].first, tokenizer),
                            100.0 * static_cast<double>(ranked[i].second) / static_cast<double>(shard.size()));
    }
    text += "\n  begins    ";
    for (int64_t offset = 0; offset < std::min(shard.size(), options.first_tokens); ++offset) {
        const uint32_t id = shard.raw(offset);
        if (tokenizer == nullptr || id >= tokenizer->vocab_size())
            text += fmt::format(" {}", id);
        else
            text += (offset == 0 ? " " : "") + tokenizer->label(static_cast<int32_t>(id));
    }
    return text + "\n";
}

std::string inspect_split(const DataConfig& config, Split split, int64_t T, uint64_t seed) {
    const Loader loader(config, split, {.T = T, .seed = seed});
    const auto amount = [](int64_t samples) {
        return samples < 0 ? std::string("no end") : fmt::format("{}", samples);
    };
    std::string text =
        fmt::format("{}\n{}\n  content    {:016x}\n  samples    {} available, {} per epoch, T = {}\n",
                    split == Split::kTrain ? "training" : "validation", loader.describe(), loader.content_hash(),
                    amount(loader.samples_available()), amount(loader.samples_per_epoch()), T);
    if (const BigramBackcopy* task = loader.bigram_backcopy()) {
        const BigramBackcopy::Floors floors = task->floors(T);
        text += fmt::format("  floors     bigram {:.4f}, copy {:.4f}, overall {:.4f} nats; {:.2f}% triggers\n",
                            floors.bigram, floors.copy, floors.overall, 100 * floors.trigger_fraction);
    }
    const Batch batch = loader.load(0, 1);
    const auto scored = std::count_if(batch.targets.begin(), batch.targets.end(), [](int32_t id) { return id >= 0; });
    text += fmt::format("  sample 0   {} document{}, {} of {} targets scored\n  begins     ",
                        batch.cu_seqlens.size() - 1, batch.cu_seqlens.size() == 2 ? "" : "s", scored, T);
    const bool spaced = loader.tokenizer() == nullptr && loader.bigram_backcopy() == nullptr;
    for (const int32_t id : batch.tokens) text += loader.label(id) + (spaced ? " " : "");
    return text + "\n";
}

}  // namespace

std::string inspect_shards(const std::string& pattern, const InspectOptions& options) {
    const auto tokenizer = find_tokenizer(pattern, options.tokenizer_file);
    const int64_t own_vocab = tokenizer ? tokenizer->vocab_size() : 0;
    const int64_t vocab_size = options.vocab_size > 0 ? options.vocab_size : own_vocab;
    const int64_t eot_token = options.eot_token < 0 && tokenizer ? tokenizer->eot_token() : options.eot_token;
    const int64_t any_id = int64_t{std::numeric_limits<uint32_t>::max()} + 1;
    const TokenShards shards(pattern, vocab_size > 0 ? vocab_size : any_id, "pattern");
    std::string text;
    for (const TokenShard& shard : shards.shards()) {
        text += inspect_shard(shard, tokenizer.get(), vocab_size, eot_token, options);
    }
    if (tokenizer != nullptr)
        text += fmt::format("tokenizer {}: {}, {} ids\n", tokenizer->hash(), tokenizer->kind(), own_vocab);
    return text + fmt::format("{} file{}, {} tokens\n", shards.shards().size(), shards.shards().size() == 1 ? "" : "s",
                              shards.size());
}

std::string inspect_config(const DataConfig& config, int64_t T, uint64_t seed) {
    const std::string train = inspect_split(config, Split::kTrain, T, seed);
    return config.has_validation() ? train + inspect_split(config, Split::kValidation, T, seed)
                                   : train + "no validation split\n";
}

}  // namespace plimsoll
