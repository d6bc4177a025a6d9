#include "data/bpe.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "data/bpe_file.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

std::string golden(const std::string& name) {
    return std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/bpe/" + name;
}

json golden_json(const std::string& name) {
    return json::parse(read_file(golden(name), "golden file"));
}

// Merges as the definition says it: look at all pairs, apply the best, begin again.
std::vector<int32_t> merged_naively(std::vector<int32_t> ids, const std::vector<BpeMerge>& merges) {
    while (true) {
        size_t best_rank = merges.size(), best_place = 0;
        for (size_t place = 0; place + 1 < ids.size(); ++place) {
            for (size_t rank = 0; rank < best_rank; ++rank) {
                if (merges[rank].left == ids[place] && merges[rank].right == ids[place + 1])
                    best_rank = rank, best_place = place;
            }
        }
        if (best_rank == merges.size()) return ids;
        ids[best_place] = merges[best_rank].merged;
        ids.erase(ids.begin() + static_cast<int64_t>(best_place) + 1);
    }
}

// All bytes, then random merges of tokens before.
BpeModel random_model(std::mt19937& random, int32_t merges, int32_t letters) {
    BpeModel model;
    std::map<std::string, int32_t> ids;
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        ids[model.tokens.emplace_back(unicode_form({&c, 1}))] = byte;
    }
    std::vector<int32_t> usable;
    for (int32_t i = 0; i < letters; ++i) usable.push_back('a' + i);
    while (static_cast<int32_t>(model.merges.size()) < merges) {
        const int32_t left = usable[random() % usable.size()], right = usable[random() % usable.size()];
        const std::string both = model.tokens[static_cast<size_t>(left)] + model.tokens[static_cast<size_t>(right)];
        const auto [place, fresh] = ids.emplace(both, static_cast<int32_t>(model.tokens.size()));
        if (!fresh) continue;  // other merges to the same token: below
        model.tokens.push_back(both);
        usable.push_back(place->second);
        model.merges.push_back({left, right, place->second});
    }
    std::shuffle(model.merges.begin(), model.merges.end(), random);  // ranks in any order, not that of making
    return model;
}

TEST(UnicodeForm, IsThatOfGpt2) {
    EXPECT_EQ(unicode_form(" a\n~"), "\u0120a\u010a~");
    EXPECT_EQ(unicode_form("\xc3\xa9\xad\x7f"), "\u00c3\u00a9\u0143\u0121");
    std::string all(256, '\0'), back;
    for (size_t byte = 0; byte < 256; ++byte) all[byte] = static_cast<char>(byte);
    ASSERT_TRUE(bytes_of_unicode_form(unicode_form(all), back));
    EXPECT_EQ(back, all);
    for (const char* other : {" ", "a b", "\u00ad", "\u0144", "\u6f22", "\n"})
        EXPECT_FALSE(bytes_of_unicode_form(other, back)) << other;
}

TEST(Bpe, IsWhatTheLibraryMakesOfTheGoldenTexts) {
    const json vectors = golden_json("vectors.json");
    for (const char* name : {"tokenizer.json", "llama3.json", "prefix.json"}) {
        const auto tokenizer = load_tokenizer(golden(name));
        EXPECT_GE(vectors.at(name).size(), 28u);
        for (const json& row : vectors.at(name)) {
            const auto text = row[0].get<std::string>();
            EXPECT_EQ(tokenizer->encode(text), row[1].get<std::vector<int32_t>>()) << name << " " << row[0];
            EXPECT_EQ(tokenizer->encode(text, SpecialTokens::kParse), row[2].get<std::vector<int32_t>>())
                << name << " " << row[0];
            const std::string blank = std::string(name) == "prefix.json" && !text.empty() && text[0] != ' ' ? " " : "";
            EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), blank + text) << name;
        }
    }
}

TEST(Bpe, Gpt2FilesAreTheSameTokenizer) {
    const auto from_json = load_tokenizer(golden("tokenizer.json")), from_files = load_tokenizer(golden("vocab.json"));
    for (const json& row : golden_json("vectors.json").at("tokenizer.json")) {
        const auto text = row[0].get<std::string>();
        EXPECT_EQ(from_files->encode(text, SpecialTokens::kParse), from_json->encode(text, SpecialTokens::kParse));
    }
    EXPECT_EQ(from_files->eot_token(), from_json->eot_token());
    EXPECT_EQ(load_tokenizer(golden(""))->to_json(), from_json->to_json());  // a folder: its tokenizer.json
}

TEST(Bpe, MergesAsTheDefinitionDoes) {
    std::mt19937 random(3);
    for (int round = 0; round < 60; ++round) {
        const int32_t letters = 1 + static_cast<int32_t>(random() % 3);
        const BpeModel model = random_model(random, 1 + static_cast<int32_t>(random() % 25), letters);
        const auto tokenizer = make_bpe_tokenizer(model, "random");
        for (int text = 0; text < 20; ++text) {
            std::string piece(random() % 90, 'a');
            for (char& c : piece) c = static_cast<char>('a' + random() % static_cast<uint32_t>(letters));
            const std::vector<int32_t> bytes(piece.begin(), piece.end());
            ASSERT_EQ(tokenizer->encode(piece), merged_naively(bytes, model.merges)) << piece;
        }
    }
}

TEST(Bpe, AnyBytesComeBack) {
    const auto tokenizer = load_tokenizer(golden("tokenizer.json"));
    std::mt19937 random(11);
    for (int round = 0; round < 300; ++round) {
        std::string text(random() % 200, '\0');
        for (char& c : text) c = static_cast<char>(random() % (round % 2 ? 256 : 160));
        ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text) << "round " << round;
    }
}

TEST(Bpe, InvalidBytesAreNeitherLettersNorSpaces) {
    // "ab\xff" would be one piece, and "b\xff" a token, if \xff were a letter.
    BpeModel model;
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        model.tokens.push_back(unicode_form({&c, 1}));
    }
    model.tokens.push_back(model.tokens['b'] + model.tokens[0xff]);
    model.tokens.push_back(model.tokens['!'] + model.tokens[0xff]);
    model.merges = {{'b', 0xff, 256}, {'!', 0xff, 257}};
    const auto tokenizer = make_bpe_tokenizer(model, "made");
    EXPECT_EQ(tokenizer->encode("ab\xff"), (std::vector<int32_t>{'a', 'b', 0xff}));
    EXPECT_EQ(tokenizer->encode("a!\xff"), (std::vector<int32_t>{'a', 257}));
}

TEST(Bpe, LongPiecesDoNotTakeSquareTime) {
    BpeModel model;
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        model.tokens.push_back(unicode_form({&c, 1}));
    }
    int32_t longest = 'a';
    for (int level = 0; level < 10; ++level) {
        const auto text = model.tokens[static_cast<size_t>(longest)];
        model.merges.push_back({longest, longest, static_cast<int32_t>(model.tokens.size())});
        longest = static_cast<int32_t>(model.tokens.size());
        model.tokens.push_back(text + text);
    }
    const auto tokenizer = make_bpe_tokenizer(model, "made");
    const auto begin = std::chrono::steady_clock::now();
    const auto ids = tokenizer->encode(std::string(1 << 20, 'a'));
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_EQ(ids, std::vector<int32_t>(1 << 10, longest));
    // 0.3 s here; looking at all pairs for each of 10^6 merges would take some 10^12 steps.
    EXPECT_LT(took.count(), 20.0);
}

TEST(Bpe, SeveralThreadsMayEncode) {
    const auto tokenizer = load_tokenizer(golden("tokenizer.json"));
    const std::string text = excerpt();
    const auto wanted = tokenizer->encode(text);
    std::vector<std::vector<int32_t>> seen(4);
    {
        std::vector<std::jthread> threads;
        for (auto& ids : seen) threads.emplace_back([&] { ids = tokenizer->encode(text); });
    }
    for (const auto& ids : seen) EXPECT_EQ(ids, wanted);
}

TEST(Bpe, SpecialTokensAreTextUnlessAskedFor) {
    const auto tokenizer = load_tokenizer(golden("tokenizer.json"));
    const int32_t eot = tokenizer->eot_token();
    EXPECT_EQ(eot, 400);
    const auto as_text = tokenizer->encode("a<|endoftext|>b");
    EXPECT_EQ(std::count(as_text.begin(), as_text.end(), eot), 0);
    EXPECT_EQ(tokenizer->decode(as_text), "a<|endoftext|>b");
    const auto parsed = tokenizer->encode("a<|endoftext|>b", SpecialTokens::kParse);
    EXPECT_EQ(std::count(parsed.begin(), parsed.end(), eot), 1);
    EXPECT_EQ(tokenizer->decode(parsed), "ab");
    EXPECT_EQ(tokenizer->label(eot), "<|endoftext|>");
    EXPECT_EQ(tokenizer->control_text('a'), "");
    EXPECT_EQ(tokenizer->label(220), "\u2423");
    for (const int32_t id : {-1, 401}) {
        expect_error(ExitCode::kBadInput, {fmt::format("id {}", id), "vocabulary of 401"},
                     [&] { tokenizer->token_bytes(id); });
    }
}

TEST(Bpe, FileComesBackAsTheSameTokenizer) {
    const TemporaryFolder folder;
    for (const char* name : {"tokenizer.json", "llama3.json", "prefix.json", "vocab.json"}) {
        const auto tokenizer = load_tokenizer(golden(name));
        save_tokenizer(*tokenizer, folder / "again.json");
        const auto again = load_tokenizer(folder / "again.json");
        EXPECT_EQ(again->to_json(), tokenizer->to_json());
        EXPECT_EQ(again->hash(), tokenizer->hash());
        EXPECT_EQ(again->kind(), "bpe");
        EXPECT_EQ(again->encode(excerpt()), tokenizer->encode(excerpt()));
        EXPECT_EQ(again->vocabulary().bos, tokenizer->vocabulary().bos);
        // Another layout of the same file is the same tokenizer.
        write_bytes(folder / "again.json", json::parse(tokenizer->to_json()).dump(4));
        EXPECT_EQ(load_tokenizer(folder / "again.json")->hash(), tokenizer->hash());
    }
    EXPECT_NE(load_tokenizer(golden("tokenizer.json"))->hash(), load_tokenizer(golden("prefix.json"))->hash());
}

TEST(Bpe, VocabularyTableIsWhatGgufWants) {
    const VocabularyTable table = load_tokenizer(golden("llama3.json"))->vocabulary();
    ASSERT_EQ(table.tokens.size(), 404u);
    ASSERT_EQ(table.types.size(), 404u);
    EXPECT_EQ(table.tokens[220], "\u0120");
    EXPECT_EQ(table.tokens[401], "<|bos|>");
    EXPECT_EQ(table.tokens[402], "  two");
    EXPECT_EQ(table.types[220], TokenType::kNormal);
    EXPECT_EQ(table.types[401], TokenType::kControl);
    EXPECT_EQ(table.types[402], TokenType::kUserDefined);
    EXPECT_EQ(table.merges.front(), "\u0120 t");
    EXPECT_EQ(table.merges.size(), 400u - 256u);
    EXPECT_EQ(table.pre, "llama-bpe");
    EXPECT_EQ(table.bos, 401);
    EXPECT_EQ(table.eos, 400);
    EXPECT_TRUE(table.add_bos);
    EXPECT_TRUE(table.ignore_merges);
    const VocabularyTable gpt2 = load_tokenizer(golden("tokenizer.json"))->vocabulary();
    EXPECT_EQ(gpt2.pre, "gpt-2");
    EXPECT_EQ(gpt2.bos, 400);
    EXPECT_FALSE(gpt2.add_bos);
    const VocabularyTable bytes = make_byte_tokenizer(true)->vocabulary();
    EXPECT_EQ(bytes.tokens[' '], "\u0120");
    EXPECT_EQ(bytes.tokens[256], "<|endoftext|>");
    EXPECT_EQ(bytes.types[256], TokenType::kControl);
    EXPECT_EQ(bytes.eos, 256);
    EXPECT_TRUE(bytes.merges.empty());
}

}  // namespace
}  // namespace plimsoll
