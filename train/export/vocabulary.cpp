#include "train/export/vocabulary.h"

#include <set>

#include "kernels/error.h"

namespace plimsoll {
namespace {

// The tokenizer's own part.
VocabularyRows rows_of(const Tokenizer& tokenizer) {
    VocabularyTable table = tokenizer.vocabulary();
    VocabularyRows rows{.tokens = std::move(table.tokens),
                        .types = {},
                        .merges = std::move(table.merges),
                        .pre = std::move(table.pre),
                        .add_space_prefix = table.add_prefix_space};
    for (const TokenType type : table.types) rows.types.push_back(static_cast<int32_t>(type));
    rows.has_eos = table.eos >= 0;
    rows.eos = std::max(table.eos, 0);
    rows.bos = table.bos >= 0 ? table.bos : rows.eos;
    rows.add_bos = table.add_bos;
    return rows;
}

}  // namespace

VocabularyRows vocabulary_rows(const TrainedModel& model) {
    const int64_t vocab = model.network().vocab, placeholders = model.network().attention.placeholders;
    check(model.tokenizer() != nullptr, "a vocabulary without a tokenizer");
    VocabularyRows rows = rows_of(*model.tokenizer());
    std::set<std::string> taken(rows.tokens.begin(), rows.tokens.end());
    const auto add = [&](std::string text, int32_t type) {
        while (!taken.insert(text).second) text += "_";
        rows.tokens.push_back(text);
        rows.types.push_back(type);
    };
    for (int64_t i = 0; static_cast<int64_t>(rows.tokens.size()) < vocab; ++i)
        add(fmt::format("[PAD{}]", i), static_cast<int32_t>(TokenType::kUnused));
    for (int64_t i = 0; i < placeholders; ++i)
        add(placeholders == 1 ? "<|sink|>" : fmt::format("<|sink{}|>", i), static_cast<int32_t>(TokenType::kControl));
    if (placeholders == 1) {
        rows.bos = static_cast<int32_t>(vocab), rows.add_bos = true;
        if (!rows.has_eos) rows.eos = rows.bos, rows.has_eos = true;  // never the next token: ends nothing
    }
    return rows;
}

void add_tokenizer_keys(GgufMetadata& metadata, const TrainedModel& model) {
    if (!model.tokenizer()) {
        metadata.add("tokenizer.ggml.model", std::string("no_vocab"));
        return;
    }
    VocabularyRows rows = vocabulary_rows(model);
    std::vector<int32_t> suppressed;  // what must never be sampled
    for (size_t id = 0; id < rows.types.size(); ++id)
        if (rows.types[id] == static_cast<int32_t>(TokenType::kUnused) ||
            static_cast<int64_t>(id) >= model.network().vocab)
            suppressed.push_back(static_cast<int32_t>(id));
    metadata.add("tokenizer.ggml.model", std::string("gpt2"));
    if (!rows.pre.empty()) metadata.add("tokenizer.ggml.pre", rows.pre);
    metadata.add("tokenizer.ggml.tokens", std::move(rows.tokens));
    metadata.add("tokenizer.ggml.token_type", std::move(rows.types));
    metadata.add("tokenizer.ggml.merges", std::move(rows.merges));  // the key must exist
    // Unset, both would be id 11.
    metadata.add("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(rows.bos));
    metadata.add("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(rows.eos));
    metadata.add("tokenizer.ggml.add_bos_token", rows.add_bos);
    if (rows.add_space_prefix) metadata.add("tokenizer.ggml.add_space_prefix", true);
    metadata.add("plimsoll.tokenizer_hash", model.tokenizer()->hash());
    if (!suppressed.empty()) metadata.add("tokenizer.ggml.suppress_tokens", std::move(suppressed));
}

}  // namespace plimsoll
