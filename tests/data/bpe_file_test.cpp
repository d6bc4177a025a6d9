#include "data/bpe_file.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

json golden_tokenizer() {
    return json::parse(read_file(std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/bpe/tokenizer.json", "golden"));
}

struct Change {
    const char* place;  // JSON pointer
    json value;
    std::initializer_list<std::string_view> parts;  // of the message
};

TEST(BpeFile, WhatIsNotImplementedIsRefusedByName) {
    const TemporaryFolder folder;
    const json split{{"type", "Split"}, {"pattern", {{"Regex", "\\s+"}}}, {"behavior", "Isolated"}, {"invert", false}};
    const json level{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    const auto sequence = [](std::initializer_list<json> steps) {
        return json{{"type", "Sequence"}, {"pretokenizers", json::array_t(steps)}};
    };
    const Change changes[] = {
        {"/normalizer", {{"type", "NFC"}}, {"normalizer is \"NFC\"", "not implement"}},
        {"/truncation", {{"max_length", 8}}, {"truncation is an object"}},
        {"/padding", true, {"padding is true"}},
        {"/version", "2.0", {"version is \"2.0\""}},
        {"/extra", 1, {"extra is 1", "no such key"}},
        {"/model/type", "Unigram", {"model.type is \"Unigram\"", "wanted \"BPE\""}},
        {"/model/dropout", 0.1, {"model.dropout is 0.1"}},
        {"/model/unk_token", "<unk>", {"model.unk_token is \"<unk>\""}},
        {"/model/byte_fallback", true, {"model.byte_fallback is true"}},
        {"/model/fuse_unk", true, {"model.fuse_unk is true"}},
        {"/model/continuing_subword_prefix", "##", {"model.continuing_subword_prefix is \"##\""}},
        {"/model/end_of_word_suffix", "</w>", {"model.end_of_word_suffix is \"</w>\""}},
        {"/model/cache_capacity", 7, {"model.cache_capacity is 7"}},
        {"/pre_tokenizer", {{"type", "Metaspace"}}, {"pre_tokenizer is \"Metaspace\""}},
        {"/pre_tokenizer/trim", true, {"pre_tokenizer.trim is true"}},
        {"/pre_tokenizer", nullptr, {"pre_tokenizer is missing"}},
        {"/pre_tokenizer", sequence({{{"type", "Digits"}}, level}), {"Sequence of \"Digits\", \"ByteLevel\""}},
        {"/pre_tokenizer", sequence({split, level}), {"pattern.Regex is '\\s+'", "GPT-2, Llama 3 or Qwen 2"}},
        {"/decoder", "ByteLevel", {"decoder is \"ByteLevel\", wanted an object"}},
        {"/decoder/cleanup", true, {"decoder.cleanup is true"}},
        {"/decoder", {{"type", "WordPiece"}}, {"decoder is \"WordPiece\""}},
        {"/post_processor", {{"type", "RobertaProcessing"}}, {"post_processor is \"RobertaProcessing\""}},
        {"/added_tokens/0/lstrip", true, {"added_tokens[0].lstrip is true"}},
        {"/added_tokens/0/rstrip", true, {"added_tokens[0].rstrip is true"}},
        {"/added_tokens/0/single_word", true, {"added_tokens[0].single_word is true"}},
    };
    for (const Change& change : changes) {
        json file = golden_tokenizer();
        file[json::json_pointer(change.place)] = change.value;
        write_bytes(folder / "tokenizer.json", file.dump());
        expect_error(ExitCode::kBadInput, change.parts, [&] { load_tokenizer(folder / "tokenizer.json"); });
    }
}

TEST(BpeFile, SplitThatIsKnownIsTakenOnlyAsItIsMeant) {
    const TemporaryFolder folder;
    const std::string path = std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/bpe/llama3.json";
    const json good = json::parse(read_file(path, "golden"));
    const Change changes[] = {
        {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", {"behavior is \"Removed\""}},
        {"/pre_tokenizer/pretokenizers/0/invert", true, {"invert is true"}},
        {"/pre_tokenizer/pretokenizers/1/use_regex", true, {"use_regex is true behind a Split"}},
        {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, {"add_prefix_space is true behind a Split"}},
        {"/post_processor/single",
         json::array({{{"Sequence", {{"id", "A"}}}}, {{"SpecialToken", {{"id", "<|bos|>"}}}}}),
         {"post_processor.single is a template of 2 parts", "at most one token before it"}},
        {"/post_processor/single/0/SpecialToken/id", "<s>", {"begins with '<s>'", "not among added_tokens"}},
        {"/post_processor/special_tokens/<|bos|>/ids",
         {401, 5},
         {"special_tokens['<|bos|>'].ids is an array", "[401]"}},
        {"/post_processor/special_tokens/<|bos|>/ids/0", 5, {"special_tokens['<|bos|>'].ids is an array", "[401]"}},
    };
    for (const Change& change : changes) {
        json file = good;
        file[json::json_pointer(change.place)] = change.value;
        write_bytes(folder / "tokenizer.json", file.dump());
        expect_error(ExitCode::kBadInput, change.parts, [&] { load_tokenizer(folder / "tokenizer.json"); });
    }
}

TEST(BpeFile, ContradictionsAreRefused) {
    const TemporaryFolder folder;
    const Change changes[] = {
        {"/model/vocab/a", 65, {"is 65, as is"}},
        {"/model/vocab/a", 401, {"model.vocab['a'] is 401, wanted an id from 0 to 400"}},
        {"/model/vocab/a", -1, {"model.vocab['a'] is -1"}},
        {"/model/vocab/a", 1.5, {"model.vocab['a'] is 1.5"}},
        {"/model/vocab/a", 18446744073709551615u, {"is 18446744073709551615"}},
        {"/model/vocab", json::array(), {"model.vocab is an array, wanted an object"}},
        {"/model/vocab/a b", 401, {"token 401 is 'a b'", "byte-level"}},
        {"/model/vocab/", 401, {"has an empty token"}},
        {"/model/merges/3", "ab", {"model.merges[3] is 'ab'", "a blank between"}},
        {"/model/merges/3", "a b c", {"model.merges[3] is 'a b c'"}},
        {"/model/merges/3", 7, {"model.merges[3] is 7, wanted a string"}},
        {"/model/merges/3", {"q", "q"}, {"merge 3 is 'q q', but 'qq' is no token"}},
        {"/model/merges/3", "\u0120 t", {"stands there twice"}},
        {"/added_tokens/0/id", 399, {"added_tokens[0] is '<|endoftext|>' with id 399"}},
        {"/added_tokens/0/id", 402, {"added_tokens[0].id is 402, wanted an id from 0 to 400"}},
        {"/added_tokens/0/content", "", {"added_tokens[0].content is empty"}},
        {"/added_tokens/0/content", 5, {"added_tokens[0].content is 5, wanted a string"}},
        {"/added_tokens/0/special", 5, {"added_tokens[0].special is 5, wanted true or false"}},
        {"/added_tokens", 5, {"added_tokens is 5, wanted a list"}},
        {"/model", "x", {"model is \"x\", wanted an object"}},
        {"/decoder", nullptr, {"decoder is missing"}},
        {"/model/merges", nullptr, {"model.merges is missing"}},
    };
    for (const Change& change : changes) {
        json file = golden_tokenizer();
        file[json::json_pointer(change.place)] = change.value;
        write_bytes(folder / "tokenizer.json", file.dump());
        expect_error(ExitCode::kBadInput, change.parts, [&] { load_tokenizer(folder / "tokenizer.json"); });
    }
    json file = golden_tokenizer();
    file["added_tokens"].push_back(file["added_tokens"][0]);
    write_bytes(folder / "tokenizer.json", file.dump());
    expect_error(ExitCode::kBadInput, {"added_tokens[1] '<|endoftext|>' stands there twice"},
                 [&] { load_tokenizer(folder / "tokenizer.json"); });
    file = golden_tokenizer();
    file["model"]["vocab"].erase("a");
    write_bytes(folder / "tokenizer.json", file.dump());
    expect_error(ExitCode::kBadInput, {"tokenizer.json"}, [&] { load_tokenizer(folder / "tokenizer.json"); });
    file = golden_tokenizer();
    file["model"]["vocab"] = json::object(), file["model"]["merges"] = json::array(),
    file["added_tokens"] = json::array();
    write_bytes(folder / "tokenizer.json", file.dump());
    expect_error(ExitCode::kBadInput, {"vocabulary is empty"}, [&] { load_tokenizer(folder / "tokenizer.json"); });
    // In the vocabulary 'é' stands for the byte E9, as an added token for the bytes C3 A9.
    file = golden_tokenizer();
    file["added_tokens"][0]["content"] = "\u00e9";
    file["added_tokens"][0]["id"] = file["model"]["vocab"]["\u00e9"];
    write_bytes(folder / "tokenizer.json", file.dump());
    expect_error(ExitCode::kBadInput, {"added_tokens[0] is '\u00e9'", "other bytes"},
                 [&] { load_tokenizer(folder / "tokenizer.json"); });
}

TEST(BpeFile, NestedValuesDoNotOverflowTheStack) {
    const TemporaryFolder folder;
    const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
    for (const char* key : {"model", "added_tokens", "pre_tokenizer", "decoder", "normalizer", "other"}) {
        std::string file = golden_tokenizer().dump();
        write_bytes(folder / "tokenizer.json", file.insert(1, fmt::format("\"x\": 1, \"{}\": {}, ", key, deep)));
        expect_error(ExitCode::kBadInput, {"tokenizer.json"}, [&] { load_tokenizer(folder / "tokenizer.json"); });
    }
}

TEST(BpeFile, Gpt2FilesThatCannotBeUsedAreRefused) {
    const TemporaryFolder folder;
    const auto refuse = [&](const char* vocab, const char* merges, std::initializer_list<std::string_view> parts) {
        write_bytes(folder / "vocab.json", vocab);
        if (merges != nullptr) write_bytes(folder / "merges.txt", merges);
        expect_error(ExitCode::kBadInput, parts, [&] { load_tokenizer(folder / "vocab.json"); });
    };
    refuse(R"({"a": 0, "b": 1})", nullptr, {"merges.txt", "cannot be opened"});
    refuse(R"({"a": 0, "b": 1})", "#version: 0.2\na b\n", {"merges.txt", "merge 0 is 'a b', but 'ab' is no token"});
    refuse(R"({"a": 0, "b": 1})", "#version: 0.2\na\n", {"merges.txt", "line 2 is 'a'"});
    refuse(R"({"a": 0, "b": 2})", "", {"vocab.json", "'b'] is 2"});
    refuse(R"({"a": 0, "b": "x"})", "", {"vocab.json", "'b'] is \"x\""});
    refuse(R"({"!": 0, "<|endoftext|>": "x"})", "", {"is \"x\""});
    write_bytes(folder / "vocab.json", R"({"a": 0, "b": 1, "ab": 2, "model": 3, "format": 4})");
    write_bytes(folder / "merges.txt", "a b\r\n\r\n");
    EXPECT_EQ(load_tokenizer(folder / "vocab.json")->encode("abba"), (std::vector<int32_t>{2, 1, 0}));
    expect_error(ExitCode::kBadInput, {"neither tokenizer.json nor vocab.json"},
                 [&] { load_tokenizer(std::string(PLIMSOLL_SOURCE_DIR) + "/data"); });
}

}  // namespace
}  // namespace plimsoll
