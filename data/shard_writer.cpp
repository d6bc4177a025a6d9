#include "data/shard_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/document_index.h"
#include "data/file.h"
#include "data/shard_tokenizer.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

static_assert(std::endian::native == std::endian::little, "shards are written as they lie in memory");

template <class Token>
void write_tokens(const std::string& path, std::span<const int32_t> ids, int64_t vocab_size) {
    const ShardFormat& format = shard_format_for(vocab_size);
    std::array<int32_t, kShardHeaderBytes / sizeof(int32_t)> header{};
    header[0] = format.magic;
    header[1] = format.version;
    header[2] = static_cast<int32_t>(ids.size());
    std::vector<Token> tokens(ids.size());
    for (size_t i = 0; i < ids.size(); ++i) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            fail_input("token shard '{}': token {} is id {}, wanted 0 to {}", path, i, ids[i], vocab_size - 1);
        }
        tokens[i] = static_cast<Token>(ids[i]);
    }
    write_file_atomically(path, {{reinterpret_cast<const char*>(header.data()), sizeof header},
                                 {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(Token)}});
}

void check_options(const PrepareOptions& options) {
    if (!(options.val_fraction >= 0.0 && options.val_fraction < 1.0)) {
        fail_input("validation fraction {}: wanted at least 0 and less than 1", options.val_fraction);
    }
    if (options.shard_tokens < 1 || options.shard_tokens > std::numeric_limits<int32_t>::max()) {
        fail_input("shard size {}: wanted 1 to {} tokens, what the header can say", options.shard_tokens,
                   std::numeric_limits<int32_t>::max());
    }
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name, std::string_view text, bool with_eot) {
    if (name == "char") return make_char_tokenizer(text, with_eot);
    if (name == "byte") return make_byte_tokenizer(with_eot);
    if (!std::filesystem::exists(name))
        fail_input("tokenizer '{}': wanted 'char', 'byte', or the path of a tokenizer file", name);
    auto tokenizer = load_tokenizer(name);
    if (with_eot && tokenizer->eot_token() < 0)
        fail_input("tokenizer file '{}': has no end-of-text token to put between documents; mark them by --index",
                   name);
    return tokenizer;
}

void make_empty_folder(const std::string& path) {
    std::error_code error;
    std::filesystem::create_directories(path, error);
    if (error) fail_io("cannot make folder '{}': {}", path, error.message());
    const bool empty = std::filesystem::is_empty(path, error);
    if (error) fail_io("cannot list folder '{}': {}", path, error.message());
    if (!empty) fail_input("folder '{}' is not empty; name a new one, so that old and new shards do not mix", path);
}

// Writes one split as shards; adds their names to `report` and their facts to `manifest`.
void write_split(const PrepareOptions& options, std::string_view name, const EncodedText& text, int64_t begin,
                 int64_t end, int64_t vocab_size, PrepareReport& report, nlohmann::ordered_json& manifest) {
    const auto& starts = text.document_starts;
    for (int64_t shard = 0; begin < end; ++shard) {
        const int64_t count = std::min(options.shard_tokens, end - begin);
        const std::string file = fmt::format("{}_{:06}.bin", name, shard);
        const std::string path = options.out + "/" + file;
        write_token_shard(path, std::span(text.ids).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
                          vocab_size);
        report.files.push_back(file);
        nlohmann::ordered_json facts{{"file", file}, {"tokens", count}};
        facts["fnv1a64"] = fmt::format("{:016x}", hash_content(MappedFile(path, "token shard").bytes()));
        manifest["shards"].push_back(std::move(facts));
        if (!starts.empty()) {
            std::vector<int64_t> inside;
            for (auto start = std::lower_bound(starts.begin(), starts.end(), begin);
                 start != starts.end() && *start < begin + count; ++start) {
                inside.push_back(*start - begin);
            }
            write_document_index(path, count, inside);
            report.files.push_back(document_index_path(file));
        }
        begin += count;
    }
}

}  // namespace

void write_token_shard(const std::string& path, std::span<const int32_t> ids, int64_t vocab_size) {
    if (ids.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
        fail_input("token shard '{}': {} tokens, its header can say {}; write several", path, ids.size(),
                   std::numeric_limits<int32_t>::max());
    }
    const bool wide = shard_format_for(vocab_size).token_bytes == 4;
    (wide ? write_tokens<uint32_t> : write_tokens<uint16_t>)(path, ids, vocab_size);
}

PrepareReport prepare_text(const PrepareOptions& options) {
    check_options(options);
    const std::string text = read_file(options.text, "text file");
    if (text.empty()) fail_input("text file '{}': is empty", options.text);
    const bool with_eot = !options.separator.empty() && options.mark == DocumentMark::kEotToken;
    const auto tokenizer = make_tokenizer(options.tokenizer, text, with_eot);
    const EncodedText encoded = encode_documents(text, *tokenizer, options.separator, options.mark);
    make_empty_folder(options.out);

    const int64_t tokens = static_cast<int64_t>(encoded.ids.size());
    const int64_t train_tokens = static_cast<int64_t>(static_cast<double>(tokens) * (1.0 - options.val_fraction));
    PrepareReport report{.vocab_size = tokenizer->vocab_size(),
                         .train_tokens = train_tokens,
                         .val_tokens = tokens - train_tokens,
                         .documents = with_eot
                                          ? std::count(encoded.ids.begin(), encoded.ids.end(), tokenizer->eot_token())
                                          : static_cast<int64_t>(encoded.document_starts.size()),
                         .files = {}};
    nlohmann::ordered_json manifest{{"format", "plimsoll-shards"}, {"version", 1}};
    manifest["text_bytes"] = text.size();
    manifest["text_fnv1a64"] = fmt::format("{:016x}", hash_content(std::as_bytes(std::span(text))));
    manifest["tokenizer"] = {{"kind", tokenizer->kind()},
                             {"file", kTokenizerFile},
                             {"fnv1a64", tokenizer->hash()}};  // that of the file too, which is to_json()
    manifest["vocab_size"] = report.vocab_size;
    manifest["train_tokens"] = report.train_tokens;
    manifest["val_tokens"] = report.val_tokens;
    manifest["documents"] = report.documents;
    manifest["shards"] = nlohmann::ordered_json::array();
    save_tokenizer(*tokenizer, fmt::format("{}/{}", options.out, kTokenizerFile));
    report.files.push_back(kTokenizerFile);
    write_split(options, "train", encoded, 0, train_tokens, report.vocab_size, report, manifest);
    write_split(options, "val", encoded, train_tokens, tokens, report.vocab_size, report, manifest);
    write_file_atomically(fmt::format("{}/{}", options.out, kManifestFile), {manifest.dump(2), "\n"});
    report.files.push_back(kManifestFile);
    return report;
}

}  // namespace plimsoll
