#include "data/tokenizer.h"

#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "data/bpe.h"
#include "data/bpe_file.h"
#include "data/file.h"
#include "data/json_value.h"
#include "data/utf8.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

constexpr std::string_view kFormat = "plimsoll-tokenizer";
constexpr int kVersion = 1;
constexpr int64_t kMaxFileBytes = 64 << 20;  // a tokenizer.json of 200,000 tokens has some 28 MB

// Character and byte tokenizers differ only in which bytes are in the vocabulary.
class SingleByteTokenizer final : public Tokenizer {
  public:
    SingleByteTokenizer(std::string_view kind, std::string bytes, bool with_eot)
        : kind_(kind), bytes_(std::move(bytes)), with_eot_(with_eot) {
        id_of_.fill(-1);
        for (size_t id = 0; id < bytes_.size(); ++id)
            id_of_[static_cast<unsigned char>(bytes_[id])] = static_cast<int32_t>(id);
    }

    std::string_view kind() const override { return kind_; }
    int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()) + (with_eot_ ? 1 : 0); }
    int32_t eot_token() const override { return with_eot_ ? static_cast<int32_t>(bytes_.size()) : -1; }

    // Control tokens have no text here.
    void encode(std::string_view text, std::vector<int32_t>& ids, SpecialTokens) const override {
        ids.reserve(ids.size() + text.size());
        for (size_t offset = 0; offset < text.size(); ++offset) {
            const int32_t id = id_of_[static_cast<unsigned char>(text[offset])];
            if (id < 0) {
                fail_input(
                    "tokenizer '{}': character '{}' at byte {} is not among its {} characters; make the "
                    "vocabulary from this text, or use the byte tokenizer",
                    kind_, printable(text.substr(offset, 1)), offset, bytes_.size());
            }
            ids.push_back(id);
        }
    }

    std::string_view token_bytes(int32_t id) const override {
        if (id < 0 || id >= vocab_size()) {
            fail_input("tokenizer '{}': id {} is outside its vocabulary of {}", kind_, id, vocab_size());
        }
        return id == eot_token() ? std::string_view() : std::string_view(bytes_).substr(static_cast<size_t>(id), 1);
    }

    std::string_view control_text(int32_t id) const override { return token_bytes(id).empty() ? "<eot>" : ""; }

    VocabularyTable vocabulary() const override {
        VocabularyTable table;
        table.types.assign(bytes_.size(), TokenType::kNormal);
        table.pre = "gpt-2";  // cuts no byte in two, and there are no merges
        for (const char& byte : bytes_) table.tokens.push_back(unicode_form({&byte, 1}));
        if (with_eot_) {
            table.tokens.push_back("<|endoftext|>");
            table.types.push_back(TokenType::kControl);
            table.bos = table.eos = eot_token();
        }
        return table;
    }

    std::string to_json() const override {
        nlohmann::ordered_json json;
        json["format"] = kFormat;
        json["version"] = kVersion;
        json["kind"] = kind_;
        if (with_eot_)
            json["eot_token"] = eot_token();
        else
            json["eot_token"] = nullptr;
        auto& bytes = json["bytes"] = nlohmann::ordered_json::array();
        for (const char byte : bytes_) bytes.push_back(static_cast<unsigned char>(byte));
        return json.dump() + "\n";
    }

  private:
    std::string kind_;
    std::string bytes_;  // bytes_[id] is the byte of an id
    bool with_eot_;
    std::array<int32_t, 256> id_of_;
};

std::string all_bytes() {
    std::string bytes(256, '\0');
    std::iota(bytes.begin(), bytes.end(), '\0');
    return bytes;
}

// Throws nlohmann's exceptions for keys that are missing or of another type.
std::unique_ptr<Tokenizer> read_single_byte(const nlohmann::json& json, const std::string& path) {
    if (json.at("format") != kFormat || json.at("version") != kVersion) {
        fail_input("tokenizer file '{}': format '{}' version {}, wanted '{}' version {}", path,
                   shown(json.at("format")), shown(json.at("version")), kFormat, kVersion);
    }
    const std::string kind = json.at("kind");
    const bool with_eot = !json.at("eot_token").is_null();
    std::string bytes;
    for (const auto& item : json.at("bytes").get_ref<const nlohmann::json::array_t&>()) {
        // Not get<int64_t>() of any number: what a huge one or a fraction becomes is undefined or wrong.
        const int64_t byte = item.is_number_integer() ? item.get<int64_t>() : -1;
        if (byte < 0 || byte > 255 || (!bytes.empty() && byte <= static_cast<unsigned char>(bytes.back()))) {
            fail_input("tokenizer file '{}': bytes[{}] is {}, wanted ascending values in 0 .. 255", path, bytes.size(),
                       shown(item));
        }
        bytes.push_back(static_cast<char>(byte));
    }
    if (bytes.empty()) fail_input("tokenizer file '{}': its vocabulary is empty", path);
    if (const auto& eot = json.at("eot_token"); with_eot && !(eot.is_number_integer() && eot == bytes.size())) {
        fail_input("tokenizer file '{}': eot_token is {}, wanted the last id, {}", path, shown(eot), bytes.size());
    }
    if (kind != "char" && (kind != "byte" || bytes != all_bytes())) {
        fail_input("tokenizer file '{}': kind '{}' with {} characters, wanted 'char', or 'byte' with all 256", path,
                   brief(kind), bytes.size());
    }
    return std::make_unique<SingleByteTokenizer>(kind, bytes, with_eot);
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, SpecialTokens specials) const {
    std::vector<int32_t> ids;
    encode(text, ids, specials);
    return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
    std::string text;
    for (const int32_t id : ids) text += token_bytes(id);
    return text;
}

std::string Tokenizer::label(int32_t id) const {
    const std::string_view control = control_text(id);
    return control.empty() ? printable(token_bytes(id)) : std::string(control);
}

uint64_t Tokenizer::content_hash() const {
    return hash_name(to_json());
}

std::string Tokenizer::hash() const {
    return fmt::format("{:016x}", content_hash());
}

std::unique_ptr<Tokenizer> make_char_tokenizer(std::string_view text, bool with_eot) {
    if (text.empty()) fail_input("tokenizer 'char': the text is empty, so there are no characters to number");
    std::set<unsigned char> distinct(text.begin(), text.end());
    return std::make_unique<SingleByteTokenizer>("char", std::string(distinct.begin(), distinct.end()), with_eot);
}

std::unique_ptr<Tokenizer> make_byte_tokenizer(bool with_eot) {
    return std::make_unique<SingleByteTokenizer>("byte", all_bytes(), with_eot);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& given) {
    std::string path = given;
    if (std::filesystem::is_directory(given)) {
        path = given + "/tokenizer.json";
        if (!std::filesystem::exists(path)) path = given + "/vocab.json";
        if (!std::filesystem::exists(path))
            fail_input("tokenizer folder '{}': holds neither tokenizer.json nor vocab.json", given);
    }
    return parse_tokenizer(read_file(path, "tokenizer file", kMaxFileBytes), path);
}

std::unique_ptr<Tokenizer> parse_tokenizer(std::string_view content, const std::string& path) {
    try {
        const auto json = nlohmann::json::parse(content);
        // GPT-2's vocabulary has tokens "model" and "format" too: numbers.
        const auto holds = [&](const char* key) { return json.is_object() && json.contains(key); };
        if (holds("model") && !json["model"].is_number()) return make_bpe_tokenizer(read_bpe_json(json, path), path);
        if (json.is_object() && !json.empty() && json.begin()->is_number() &&
            (!holds("format") || json["format"].is_number())) {
            const auto merges = (std::filesystem::path(path).parent_path() / "merges.txt").string();
            return make_bpe_tokenizer(
                read_gpt2_vocabulary(json, path, read_file(merges, "merges file", kMaxFileBytes), merges), path);
        }
        return read_single_byte(json, path);
    } catch (const nlohmann::json::exception& error) {
        fail_input(
            "tokenizer file '{}': {}; wanted a tokenizer.json of `plimsoll data prepare` or of Hugging Face, or "
            "GPT-2's vocab.json",
            path, brief(error.what(), 300));
    }
}

void save_tokenizer(const Tokenizer& tokenizer, const std::string& path) {
    write_file_atomically(path, {tokenizer.to_json()});
}

std::string printable(std::string_view bytes) {
    std::string text;
    for (size_t offset = 0; offset < bytes.size();) {
        const Utf8Symbol symbol = utf8_symbol(bytes, offset);
        if (symbol.code == '\n')
            text += "\\n";
        else if (symbol.code == '\t')
            text += "\\t";
        else if (symbol.code == ' ')
            text += "\u2423";
        else if (symbol.code < 32 || symbol.code == 127 || symbol.code == kInvalidByte)
            text += fmt::format("\\x{:02x}", static_cast<unsigned char>(bytes[offset]));
        else
            text += bytes.substr(offset, symbol.bytes);
        offset += symbol.bytes;
    }
    return text;
}

}  // namespace plimsoll
