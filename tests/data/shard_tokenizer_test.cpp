#include "data/shard_tokenizer.h"

#include <gtest/gtest.h>

#include "data/loader.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

class ShardTokenizer : public testing::Test {
  protected:
    TemporaryFolder folder_;

    static std::string golden(const std::string& name) {
        return std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/bpe/" + name;
    }
    std::string prepare(const std::string& name, const std::string& tokenizer) {
        prepare_text({.text = excerpt_path(), .out = folder_ / name, .tokenizer = golden(tokenizer)});
        return folder_ / name;
    }
};

TEST_F(ShardTokenizer, IsTheOneBesideTheShardsWhateverFolderTheyLieIn) {
    prepare("a", "tokenizer.json");
    prepare("b", "tokenizer.json");
    const FoundTokenizer found = find_shard_tokenizer(folder_ / "*/train_*.bin");
    ASSERT_NE(found.tokenizer, nullptr);
    EXPECT_EQ(found.tokenizer->hash(), load_tokenizer(golden("tokenizer.json"))->hash());
    EXPECT_EQ(find_shard_tokenizer(folder_ / "none/*.bin").tokenizer, nullptr);
    std::filesystem::remove(folder_ / "a/tokenizer.json");  // without it nobody knows, and the other one stands
    EXPECT_NE(find_shard_tokenizer(folder_ / "*/train_*.bin").tokenizer, nullptr);
}

TEST_F(ShardTokenizer, TwoOfThemInOneDataSetAreRefusedAndNamed) {
    const std::string a = prepare("a", "tokenizer.json"), b = prepare("b", "prefix.json");
    const std::string hash_a = load_tokenizer(golden("tokenizer.json"))->hash(),
                      hash_b = load_tokenizer(golden("prefix.json"))->hash();
    const std::initializer_list<std::string_view> both = {hash_a, hash_b, "need one tokenizer"};
    expect_error(ExitCode::kBadInput, both, [&] { find_shard_tokenizer(folder_ / "*/train_*.bin"); });
    DataConfig config;
    config.source = "shards", config.shards = a + "/train_*.bin", config.val_shards = b + "/val_*.bin";
    expect_error(ExitCode::kBadInput, both, [&] { Loader(config, Split::kTrain, {.T = 16}); });
    config.val_shards = a + "/val_*.bin";
    const Loader loader(config, Split::kTrain, {.T = 16});
    EXPECT_EQ(loader.tokenizer_hash(), hash_a);
    EXPECT_EQ(loader.vocab_size(), 401);
    config.tokenizer_file = golden("prefix.json");
    expect_error(ExitCode::kBadInput, both, [&] { Loader(config, Split::kTrain, {.T = 16}); });
    config.tokenizer_file.clear();
    config.source = "mixture", config.shards.clear(), config.val_shards.clear();
    config.sources = {"1 shards " + a + "/train_*.bin", "1 shards " + b + "/train_*.bin"};
    expect_error(ExitCode::kBadInput, both, [&] { Loader(config, Split::kTrain, {.T = 16}); });
}

TEST_F(ShardTokenizer, FileThatWasReplacedIsNoticed) {
    const std::string a = prepare("a", "tokenizer.json");
    save_tokenizer(*load_tokenizer(golden("prefix.json")), a + "/tokenizer.json");
    expect_error(ExitCode::kBadInput,
                 {"a/tokenizer.json", load_tokenizer(golden("prefix.json"))->hash(), "a/manifest.json",
                  load_tokenizer(golden("tokenizer.json"))->hash()},
                 [&] { find_shard_tokenizer(a + "/train_*.bin"); });
    // Manifests of others say nothing about it.
    for (const char* manifest : {"[1]", "{", R"({"tokenizer": 3})", R"({"tokenizer": {"kind": "x"}})"}) {
        write_bytes(a + "/manifest.json", manifest);
        EXPECT_NE(find_shard_tokenizer(a + "/train_*.bin").tokenizer, nullptr) << manifest;
    }
}

TEST_F(ShardTokenizer, TextIsReadWithATokenizerFromAFile) {
    DataConfig config;
    config.source = "text", config.text = excerpt_path(), config.tokenizer_file = golden("tokenizer.json");
    const Loader loader(config, Split::kTrain, {.T = 16});
    EXPECT_EQ(loader.vocab_size(), 401);
    EXPECT_EQ(loader.load(0, 1).tokens.size(), 16u);
}

}  // namespace
}  // namespace plimsoll
