#include "data/bpe_file.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "data/json_value.h"
#include "kernels/error.h"

namespace plimsoll {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::string_view kEndOfText = "<|endoftext|>";

// Reads the parts of one file, and names it in errors.
class Reader {
  public:
    explicit Reader(const std::string& path) : path_(path) {}

    [[noreturn]] void refuse(std::string_view key, const std::string& seen, std::string_view wanted) const {
        fail_input("tokenizer file '{}': {} is {}, which plimsoll does not implement; wanted {}", path_, key, seen,
                   wanted);
    }
    // `key` may be "an.outer.key"; the last part is looked up in `object`. Null if it is missing or null.
    static const json* find(const json& object, std::string_view key) {
        const auto found = object.find(std::string(key.substr(key.rfind('.') + 1)));
        return found == object.end() || found->is_null() ? nullptr : &*found;
    }
    const json& member(const json& object, std::string_view key) const {
        if (const json* value = find(object, key)) return *value;
        fail_input("tokenizer file '{}': {} is missing", path_, key);
    }
    const json& object(const json& value, std::string_view key) const {
        if (!value.is_object()) fail_input("tokenizer file '{}': {} is {}, wanted an object", path_, key, shown(value));
        return value;
    }
    const json::array_t& list(const json& object, std::string_view key) const {
        const json& value = member(object, key);
        if (!value.is_array()) fail_input("tokenizer file '{}': {} is {}, wanted a list", path_, key, shown(value));
        return value.get_ref<const json::array_t&>();
    }
    const std::string& string(const json& value, std::string_view key) const {
        if (!value.is_string()) fail_input("tokenizer file '{}': {} is {}, wanted a string", path_, key, shown(value));
        return value.get_ref<const std::string&>();
    }
    bool flag(const json& object, std::string_view key, bool otherwise) const {
        const json* value = find(object, key);
        if (value == nullptr) return otherwise;
        if (!value->is_boolean())
            fail_input("tokenizer file '{}': {} is {}, wanted true or false", path_, key, shown(*value));
        return value->get<bool>();
    }
    // An id below `count`.
    int32_t id(const json& value, std::string_view key, size_t count) const {
        // Not get<int64_t>() of any number: what a huge one or a fraction becomes is undefined or wrong.
        const bool whole = value.is_number_integer() && value >= 0 && value < count;
        if (!whole) {
            fail_input("tokenizer file '{}': {} is {}, wanted an id from 0 to {}, one for each of its {} tokens", path_,
                       key, shown(value), static_cast<int64_t>(count) - 1, count);
        }
        return value.get<int32_t>();
    }
    // Refuses keys that are not among `known`, and non-null values of those that are among `only_null`.
    void check_keys(const json& object, std::string_view where, std::initializer_list<std::string_view> known,
                    std::initializer_list<std::string_view> only_null = {}) const {
        for (const auto& [key, value] : object.items()) {
            const std::string name = where.empty() ? brief(key) : fmt::format("{}.{}", where, brief(key));
            if (std::find(only_null.begin(), only_null.end(), key) != only_null.end()) {
                if (!value.is_null()) refuse(name, kind_of(value), "null");
            } else if (std::find(known.begin(), known.end(), key) == known.end()) {
                refuse(name, kind_of(value), "no such key");
            }
        }
    }
    // {"type": "ByteLevel"} as its type, other values as they are.
    static std::string kind_of(const json& value) {
        const json* type = value.is_object() ? find(value, "type") : nullptr;
        return type != nullptr && type->is_string() ? shown(*type) : shown(value);
    }

    void vocabulary(const json& vocab, std::string_view key, size_t added, BpeModel& model) const;
    template <class Split>
    void merges(size_t count, Split&& split, BpeModel& model) const;
    void added_tokens(const json& file, BpeModel& model) const;
    void pre_tokenizer(const json& value, BpeModel& model) const;
    void post_processor(const json& value, BpeModel& model) const;
    void check_model(const json& value) const;
    void check_complete(const BpeModel& model) const;

  private:
    void byte_level(const json& value, const std::string& key, bool behind_split, BpeModel& model) const;
    void template_processing(const json& value, const std::string& key, BpeModel& model) const;

    const std::string& path_;
};

// Fills model.tokens, which also has room for `added` tokens more; "" = no token.
void Reader::vocabulary(const json& vocab, std::string_view key, size_t added, BpeModel& model) const {
    object(vocab, key);
    model.tokens.resize(vocab.size() + added);
    for (const auto& [token, value] : vocab.items()) {
        const std::string where = fmt::format("{}['{}']", key, brief(token));
        std::string& place = model.tokens[static_cast<size_t>(id(value, where, model.tokens.size()))];
        if (token.empty()) fail_input("tokenizer file '{}': {} has an empty token", path_, key);
        if (!place.empty())
            fail_input("tokenizer file '{}': {} is {}, as is '{}'", path_, where, shown(value), brief(place));
        place = token;
    }
}

// Reads `count` merges, whose two tokens split(rank) tells.
template <class Split>
void Reader::merges(size_t count, Split&& split, BpeModel& model) const {
    std::unordered_map<std::string_view, int32_t> ids;
    for (size_t id = 0; id < model.tokens.size(); ++id) ids.emplace(model.tokens[id], static_cast<int32_t>(id));
    for (size_t rank = 0; rank < count; ++rank) {
        const std::pair<std::string_view, std::string_view> pair = split(rank);
        const std::string_view left = pair.first, right = pair.second;  // clang 14 captures no structured bindings
        const std::string both = std::string(left) + std::string(right);
        const auto id_of = [&](std::string_view token) {
            const auto found = ids.find(token);
            if (found == ids.end() || token.empty())
                fail_input("tokenizer file '{}': merge {} is '{} {}', but '{}' is no token", path_, rank, brief(left),
                           brief(right), brief(token));
            return found->second;
        };
        model.merges.push_back({id_of(left), id_of(right), id_of(both)});
    }
}

void Reader::added_tokens(const json& file, BpeModel& model) const {
    if (find(file, "added_tokens") == nullptr) return;
    const json::array_t& list = this->list(file, "added_tokens");
    for (size_t i = 0; i < list.size(); ++i) {
        const std::string where = fmt::format("added_tokens[{}]", i);
        const json& token = object(list[i], where);
        check_keys(token, where, {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
        for (const std::string_view key : {"single_word", "lstrip", "rstrip"}) {
            const std::string name = fmt::format("{}.{}", where, key);
            if (flag(token, name, false)) refuse(name, "true", "false");
        }
        AddedToken added{.text = string(member(token, where + ".content"), where + ".content"),
                         .id = id(member(token, where + ".id"), where + ".id", model.tokens.size()),
                         .special = flag(token, where + ".special", false),
                         .normalized = flag(token, where + ".normalized", false)};
        std::string& place = model.tokens[static_cast<size_t>(added.id)];
        const auto same = [&](const AddedToken& other) { return other.id == added.id || other.text == added.text; };
        if (added.text.empty()) fail_input("tokenizer file '{}': {}.content is empty", path_, where);
        if (std::any_of(model.added.begin(), model.added.end(), same))
            fail_input("tokenizer file '{}': {} '{}' stands there twice", path_, where, brief(added.text));
        if (!place.empty() && place != added.text)
            fail_input("tokenizer file '{}': {} is '{}' with id {}, which the vocabulary gives to '{}'", path_, where,
                       brief(added.text), added.id, brief(place));
        added.in_vocabulary = !place.empty();
        // As a token of the vocabulary it stands for bytes, which would be others than those of its text.
        if (std::string bytes; added.in_vocabulary && bytes_of_unicode_form(added.text, bytes) && bytes != added.text)
            refuse(where, fmt::format("'{}', which the vocabulary has for other bytes", brief(added.text)),
                   "a text of its own");
        place = added.text;
        model.added.push_back(std::move(added));
    }
    std::sort(model.added.begin(), model.added.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
}

// Every id has a token, and every token that is not added is bytes.
void Reader::check_complete(const BpeModel& model) const {
    if (model.tokens.empty()) fail_input("tokenizer file '{}': its vocabulary is empty", path_);
    size_t next_added = 0;
    for (size_t id = 0; id < model.tokens.size(); ++id) {
        const bool added = next_added < model.added.size() && static_cast<size_t>(model.added[next_added].id) == id;
        if (added) ++next_added;
        if (model.tokens[id].empty())
            refuse(fmt::format("id {}", id), "without a token",
                   fmt::format("each of 0 to {}", model.tokens.size() - 1));
        if (std::string bytes; !added && !bytes_of_unicode_form(model.tokens[id], bytes))
            refuse(fmt::format("token {}", id), fmt::format("'{}'", brief(model.tokens[id])),
                   "a byte-level vocabulary (a blank is \u0120), or the token among added_tokens");
    }
}

void Reader::byte_level(const json& value, const std::string& key, bool behind_split, BpeModel& model) const {
    check_keys(value, key, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    const bool use_regex = flag(value, key + ".use_regex", true);
    if (behind_split && use_regex) refuse(key + ".use_regex", "true behind a Split", "false");
    if (!behind_split) model.split = use_regex ? SplitRule::kGpt2 : SplitRule::kWhole;
    model.add_prefix_space = flag(value, key + ".add_prefix_space", true);
    if (behind_split && model.add_prefix_space) refuse(key + ".add_prefix_space", "true behind a Split", "false");
}

void Reader::pre_tokenizer(const json& value, BpeModel& model) const {
    const std::string kind = kind_of(value);
    if (kind == "\"ByteLevel\"") return byte_level(value, "pre_tokenizer", false, model);
    constexpr std::string_view kWanted = "ByteLevel, or Sequence of Split and ByteLevel";
    if (kind != "\"Sequence\"") refuse("pre_tokenizer", kind, kWanted);
    check_keys(value, "pre_tokenizer", {"type", "pretokenizers"});
    const json::array_t& steps = list(value, "pre_tokenizer.pretokenizers");
    std::string kinds;
    for (const json& step : steps) kinds += (kinds.empty() ? "" : ", ") + kind_of(step);
    if (kinds == "\"ByteLevel\"") return byte_level(steps[0], "pre_tokenizer.pretokenizers[0]", false, model);
    if (kinds != "\"Split\", \"ByteLevel\"")
        refuse("pre_tokenizer", fmt::format("Sequence of {}", brief(kinds)), kWanted);
    const std::string key = "pre_tokenizer.pretokenizers[0]";
    check_keys(steps[0], key, {"type", "pattern", "behavior", "invert"});
    const json& pattern = object(member(steps[0], key + ".pattern"), key + ".pattern");
    check_keys(pattern, key + ".pattern", {"Regex"});
    const std::string& regex = string(member(pattern, "pattern.Regex"), key + ".pattern.Regex");
    const SplitRuleInfo* rule = find_split_rule(regex);
    if (rule == nullptr)
        refuse(key + ".pattern.Regex", fmt::format("'{}'", brief(regex, 300)), "the one of GPT-2, Llama 3 or Qwen 2");
    if (const json& behavior = member(steps[0], key + ".behavior"); behavior != "Isolated")
        refuse(key + ".behavior", shown(behavior), "\"Isolated\"");
    if (flag(steps[0], key + ".invert", false)) refuse(key + ".invert", "true", "false");
    model.split = rule->rule;
    byte_level(steps[1], "pre_tokenizer.pretokenizers[1]", true, model);
}

void Reader::template_processing(const json& value, const std::string& key, BpeModel& model) const {
    // What "pair" says is about two texts, which nothing here encodes together.
    check_keys(value, key, {"type", "single", "pair", "special_tokens"});
    const json::array_t& single = list(value, key + ".single");
    const json* first = nullptr;
    if (single.size() == 2) {
        const json& special = object(single[0], key + ".single[0]");
        first = find(special, "SpecialToken");
    }
    const bool text_last = !single.empty() && single.back().is_object() && single.back().contains("Sequence");
    if (!text_last || single.size() > 2 || (single.size() == 2 && first == nullptr))
        refuse(key + ".single", fmt::format("a template of {} parts", single.size()),
               "the text, with at most one token before it");
    if (first == nullptr) return;
    const std::string& text = string(member(object(*first, key), key + ".single[0].SpecialToken.id"), key + ".single");
    for (const AddedToken& token : model.added) {
        if (token.text == text) model.bos_token = token.id;
    }
    const json& tokens = object(member(value, key + ".special_tokens"), key + ".special_tokens");
    const json* known = tokens.contains(text) && tokens[text].is_object() ? find(tokens[text], "ids") : nullptr;
    const bool same = known != nullptr && known->is_array() && known->size() == 1 && (*known)[0] == model.bos_token;
    if (model.bos_token >= 0 && !same)
        refuse(fmt::format("{}.special_tokens['{}'].ids", key, brief(text)),
               known == nullptr ? "missing" : shown(*known), fmt::format("[{}], its id", model.bos_token));
    if (model.bos_token < 0)
        fail_input("tokenizer file '{}': {}.single begins with '{}', which is not among added_tokens", path_, key,
                   brief(text));
}

void Reader::post_processor(const json& value, BpeModel& model) const {
    const auto one = [&](const json& step, const std::string& key) {
        const std::string kind = kind_of(step);
        if (kind == "\"ByteLevel\"")  // changes offsets, no ids
            check_keys(step, key, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
        else if (kind == "\"TemplateProcessing\"")
            template_processing(step, key, model);
        else
            refuse(key, kind, "ByteLevel or TemplateProcessing");
    };
    if (kind_of(value) != "\"Sequence\"") return one(value, "post_processor");
    check_keys(value, "post_processor", {"type", "processors"});
    const json::array_t& steps = list(value, "post_processor.processors");
    for (size_t i = 0; i < steps.size(); ++i) one(steps[i], fmt::format("post_processor.processors[{}]", i));
}

// That the keys of "model" besides vocab, merges and ignore_merges ask for nothing.
void Reader::check_model(const json& value) const {
    const json& model = object(value, "model");
    if (const json* type = find(model, "type"); type != nullptr && *type != "BPE")
        refuse("model.type", shown(*type), "\"BPE\"");
    check_keys(model, "model",
               {"type", "dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                "ignore_merges", "vocab", "merges"},
               {"unk_token"});
    if (const json* dropout = find(model, "dropout"); dropout != nullptr && *dropout != 0)
        refuse("model.dropout", shown(*dropout), "null");
    for (const std::string_view key : {"model.continuing_subword_prefix", "model.end_of_word_suffix"}) {
        if (const json* affix = find(model, key); affix != nullptr && *affix != "")
            refuse(key, shown(*affix), "null or \"\"");
    }
    for (const std::string_view key : {"model.fuse_unk", "model.byte_fallback"}) {
        if (flag(model, key, false)) refuse(key, "true", "false");
    }
}

}  // namespace

BpeModel read_bpe_json(const json& file, const std::string& path) {
    const Reader reader(path);
    reader.object(file, "its content");
    reader.check_keys(file, "", {"version", "added_tokens", "pre_tokenizer", "post_processor", "decoder", "model"},
                      {"truncation", "padding", "normalizer"});
    if (const json* version = Reader::find(file, "version"); version != nullptr && *version != "1.0")
        reader.refuse("version", shown(*version), "\"1.0\"");
    const json& value = reader.member(file, "model");
    reader.check_model(value);
    BpeModel model;
    // Added tokens that the vocabulary has too need no room of their own.
    const json& vocab = reader.object(reader.member(value, "model.vocab"), "model.vocab");
    size_t own_ids = 0;
    if (const json* added = Reader::find(file, "added_tokens"); added != nullptr && added->is_array()) {
        for (const json& token : *added) {
            const json* content = token.is_object() ? Reader::find(token, "content") : nullptr;
            if (content == nullptr || !content->is_string() || !vocab.contains(content->get_ref<const std::string&>()))
                ++own_ids;
        }
    }
    reader.vocabulary(vocab, "model.vocab", own_ids, model);
    const json::array_t& merges = reader.list(value, "model.merges");
    reader.merges(
        merges.size(),
        [&](size_t rank) -> std::pair<std::string_view, std::string_view> {
            const json& merge = merges[rank];
            const std::string key = fmt::format("model.merges[{}]", rank);
            if (merge.is_array() && merge.size() == 2)
                return {reader.string(merge[0], key), reader.string(merge[1], key)};
            const std::string_view line = reader.string(merge, key);
            const size_t blank = line.find(' ');
            if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
                fail_input("tokenizer file '{}': {} is '{}', wanted two tokens with a blank between them", path, key,
                           brief(line));
            return {line.substr(0, blank), line.substr(blank + 1)};
        },
        model);
    model.ignore_merges = reader.flag(value, "model.ignore_merges", false);
    reader.added_tokens(file, model);
    reader.check_complete(model);
    reader.pre_tokenizer(reader.member(file, "pre_tokenizer"), model);
    if (const json* processor = Reader::find(file, "post_processor")) reader.post_processor(*processor, model);
    const json& decoder = reader.member(file, "decoder");
    if (const std::string kind = Reader::kind_of(decoder); kind != "\"ByteLevel\"")
        reader.refuse("decoder", kind, "\"ByteLevel\"");
    reader.check_keys(reader.object(decoder, "decoder"), "decoder",
                      {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    return model;
}

BpeModel read_gpt2_vocabulary(const json& vocab, const std::string& vocab_path, std::string_view merges,
                              const std::string& merges_path) {
    std::vector<std::pair<std::string_view, std::string_view>> pairs;
    size_t number = 0;
    while (!merges.empty()) {
        const size_t end = std::min(merges.find('\n'), merges.size());
        std::string_view line = merges.substr(0, end);
        merges.remove_prefix(std::min(end + 1, merges.size()));
        ++number;
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
        const size_t blank = line.find(' ');
        if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos)
            fail_input("merges file '{}': line {} is '{}', wanted two tokens with a blank between them", merges_path,
                       number, brief(line));
        pairs.emplace_back(line.substr(0, blank), line.substr(blank + 1));
    }
    BpeModel model;
    const Reader reader(vocab_path);
    reader.vocabulary(vocab, "the vocabulary", 0, model);
    Reader(merges_path)
        .merges(
            pairs.size(), [&](size_t rank) { return pairs[rank]; }, model);
    if (const json* id = Reader::find(vocab, kEndOfText))
        model.added.push_back({.text = std::string(kEndOfText), .id = id->get<int32_t>(), .in_vocabulary = true});
    reader.check_complete(model);
    return model;
}

std::string bpe_json(const BpeModel& model) {
    ordered_json file{{"version", "1.0"}, {"truncation", nullptr}, {"padding", nullptr}};
    auto& added = file["added_tokens"] = ordered_json::array();
    std::vector<bool> outside(model.tokens.size(), false);
    for (const AddedToken& token : model.added) {
        outside[static_cast<size_t>(token.id)] = !token.in_vocabulary;
        added.push_back({{"id", token.id},
                         {"content", token.text},
                         {"single_word", false},
                         {"lstrip", false},
                         {"rstrip", false},
                         {"normalized", token.normalized},
                         {"special", token.special}});
    }
    file["normalizer"] = nullptr;
    const auto byte_level = [&](bool use_regex) {
        return ordered_json{{"type", "ByteLevel"},
                            {"add_prefix_space", model.add_prefix_space},
                            {"trim_offsets", true},
                            {"use_regex", use_regex}};
    };
    if (model.split == SplitRule::kGpt2 || model.split == SplitRule::kWhole) {
        file["pre_tokenizer"] = byte_level(model.split == SplitRule::kGpt2);
    } else {
        const ordered_json split{{"type", "Split"},
                                 {"pattern", {{"Regex", info_of(model.split).regex}}},
                                 {"behavior", "Isolated"},
                                 {"invert", false}};
        file["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, byte_level(false)}}};
    }
    file["post_processor"] = nullptr;
    if (model.bos_token >= 0) {
        const std::string& bos = model.tokens[static_cast<size_t>(model.bos_token)];
        const auto special = [&](int type) { return ordered_json{{"SpecialToken", {{"id", bos}, {"type_id", type}}}}; };
        const auto text = [](const char* name, int type) {
            return ordered_json{{"Sequence", {{"id", name}, {"type_id", type}}}};
        };
        ordered_json tokens;
        tokens[bos] = {
            {"id", bos}, {"ids", ordered_json::array({model.bos_token})}, {"tokens", ordered_json::array({bos})}};
        file["post_processor"] = {{"type", "TemplateProcessing"},
                                  {"single", ordered_json::array({special(0), text("A", 0)})},
                                  {"pair", ordered_json::array({special(0), text("A", 0), special(1), text("B", 1)})},
                                  {"special_tokens", tokens}};
    }
    file["decoder"] = byte_level(true);
    ordered_json vocab = ordered_json::object(), merges = ordered_json::array();
    // Not vocab[token] = id, which looks through all keys before.
    auto& entries = vocab.get_ref<ordered_json::object_t&>();
    for (size_t id = 0; id < model.tokens.size(); ++id) {
        if (!outside[id]) entries.Container::emplace_back(model.tokens[id], id);
    }
    for (const BpeMerge& merge : model.merges)
        merges.push_back(ordered_json::array(
            {model.tokens[static_cast<size_t>(merge.left)], model.tokens[static_cast<size_t>(merge.right)]}));
    file["model"] = {{"type", "BPE"},
                     {"dropout", nullptr},
                     {"unk_token", nullptr},
                     {"continuing_subword_prefix", nullptr},
                     {"end_of_word_suffix", nullptr},
                     {"fuse_unk", false},
                     {"byte_fallback", false},
                     {"ignore_merges", model.ignore_merges}};
    file["model"]["vocab"] = std::move(vocab);
    file["model"]["merges"] = std::move(merges);
    return file.dump() + "\n";
}

}  // namespace plimsoll
