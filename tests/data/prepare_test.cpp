#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/inspect.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

std::string decode_shards(const std::string& folder, const std::string& pattern) {
    const auto tokenizer = load_tokenizer(folder + "/tokenizer.json");
    const TokenShards shards(folder + "/" + pattern, tokenizer->vocab_size(), "pattern");
    std::vector<int32_t> ids(static_cast<size_t>(shards.size()));
    shards.read(0, ids);
    return tokenizer->decode(ids);
}

TEST(PrepareText, ShardsDecodeToTheText) {
    for (const std::string tokenizer : {"char", "byte"}) {
        const TemporaryFolder folder;
        const std::string out = folder / "deep/out";
        const PrepareReport report =
            prepare_text({.text = excerpt_path(), .out = out, .tokenizer = tokenizer, .shard_tokens = 3000});
        EXPECT_EQ(decode_shards(out, "train_*.bin") + decode_shards(out, "val_*.bin"), excerpt());
        const auto size = static_cast<int64_t>(excerpt().size());
        EXPECT_EQ(report.train_tokens, static_cast<int64_t>(static_cast<double>(size) * 0.9));
        EXPECT_EQ(report.train_tokens + report.val_tokens, size);
        EXPECT_EQ(report.documents, 0);
        EXPECT_EQ(report.files.back(), "manifest.json");
        for (const std::string& file : report.files) EXPECT_TRUE(std::filesystem::exists(out + "/" + file)) << file;
        EXPECT_TRUE(std::filesystem::exists(out + "/train_000003.bin"));
    }
}

TEST(PrepareText, ManifestHashesAreThoseOfTheFiles) {
    const TemporaryFolder folder;
    prepare_text({.text = excerpt_path(), .out = folder / "a", .shard_tokens = 5000});
    prepare_text({.text = excerpt_path(), .out = folder / "b", .shard_tokens = 5000});
    const std::string text = read_file(folder / "a/manifest.json", "manifest");
    EXPECT_EQ(text, read_file(folder / "b/manifest.json", "manifest"));
    const auto manifest = nlohmann::json::parse(text);
    ASSERT_EQ(manifest["shards"].size(), 4u);
    for (const auto& shard : manifest["shards"]) {
        const MappedFile file(folder / ("a/" + shard["file"].get<std::string>()), "shard");
        EXPECT_EQ(shard["fnv1a64"], fmt::format("{:016x}", hash_content(file.bytes())));
    }
}

TEST(PrepareText, SeparatorBecomesEotTokens) {
    const TemporaryFolder folder;
    write_bytes(folder / "t.txt", "one<|endoftext|>two<|endoftext|>three");
    const PrepareReport report = prepare_text({.text = folder / "t.txt",
                                               .out = folder / "out",
                                               .tokenizer = "byte",
                                               .val_fraction = 0.0,
                                               .separator = "<|endoftext|>"});
    EXPECT_EQ(report.documents, 3);
    EXPECT_EQ(report.vocab_size, 257);
    EXPECT_EQ(report.train_tokens, 3 + 3 + 5 + 3);
    const TokenShard shard(folder / "out/train_000000.bin");
    EXPECT_EQ(shard.raw(0), 256u);
    EXPECT_EQ(shard.raw(4), 256u);
    EXPECT_EQ(decode_shards(folder / "out", "train_*.bin"), "onetwothree");
}

TEST(PrepareText, SeparatorCanBecomeAnIndexFilePerShard) {
    const TemporaryFolder folder;
    write_bytes(folder / "t.txt", "one|two|three");
    const PrepareReport report = prepare_text({.text = folder / "t.txt",
                                               .out = folder / "out",
                                               .tokenizer = "byte",
                                               .val_fraction = 0.0,
                                               .shard_tokens = 5,
                                               .separator = "|",
                                               .mark = DocumentMark::kIndex});
    EXPECT_EQ(report.documents, 3);
    const TokenShards shards(folder / "out/train_*.bin", 256, "pattern");
    std::vector<int64_t> starts;
    shards.document_starts(0, shards.size(), starts);
    EXPECT_EQ(starts, (std::vector<int64_t>{0, 4, 8}));
    EXPECT_EQ(decode_shards(folder / "out", "train_*.bin"), "one|two|three");
}

TEST(PrepareText, TokenizerCanComeFromAFile) {
    const TemporaryFolder folder;
    const std::string file = std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/bpe/tokenizer.json";
    const auto tokenizer = load_tokenizer(file);
    const PrepareReport report =
        prepare_text({.text = excerpt_path(), .out = folder / "out", .tokenizer = file, .val_fraction = 0.0});
    EXPECT_EQ(report.vocab_size, 401);
    EXPECT_EQ(report.train_tokens, static_cast<int64_t>(tokenizer->encode(excerpt()).size()));
    EXPECT_LT(report.train_tokens, static_cast<int64_t>(excerpt().size()));
    EXPECT_EQ(decode_shards(folder / "out", "train_*.bin"), excerpt());
    EXPECT_EQ(load_tokenizer(folder / "out/tokenizer.json")->hash(), tokenizer->hash());
    write_bytes(folder / "t.txt", "one|two");
    prepare_text({.text = folder / "t.txt", .out = folder / "eot", .tokenizer = file, .separator = "|"});
    EXPECT_EQ(TokenShard(folder / "eot/train_000000.bin").raw(0), 400u);
    auto json = nlohmann::json::parse(read_file(file, "golden"));
    json["added_tokens"] = nlohmann::json::array();
    write_bytes(folder / "no_eot.json", json.dump());
    expect_error(ExitCode::kBadInput, {"no_eot.json", "no end-of-text token", "--index"}, [&] {
        prepare_text(
            {.text = folder / "t.txt", .out = folder / "x", .tokenizer = folder / "no_eot.json", .separator = "|"});
    });
}

TEST(PrepareText, OptionsAndFilesThatCannotBeUsedAreRefused) {
    const TemporaryFolder folder;
    const auto refuse = [&](PrepareOptions options, ExitCode code, std::initializer_list<std::string_view> parts) {
        expect_error(code, parts, [&] { prepare_text(options); });
    };
    const PrepareOptions good{.text = excerpt_path(), .out = folder / "out"};
    PrepareOptions options = good;
    options.text = folder / "missing.txt";
    refuse(options, ExitCode::kBadInput, {"missing.txt", "cannot be opened"});
    options.text = write_bytes(folder / "empty.txt", "");
    refuse(options, ExitCode::kBadInput, {"empty.txt", "is empty"});
    options = good;
    options.tokenizer = "bpe";
    refuse(options, ExitCode::kBadInput, {"tokenizer 'bpe'", "path of a tokenizer file"});
    options = good;
    options.val_fraction = 1.0;
    refuse(options, ExitCode::kBadInput, {"validation fraction 1"});
    for (const int64_t tokens : {int64_t{0}, int64_t{1} << 31}) {
        options = good;
        options.shard_tokens = tokens;
        refuse(options, ExitCode::kBadInput, {fmt::format("shard size {}", tokens)});
    }
    options = good;
    options.out = folder / "empty.txt/out";
    refuse(options, ExitCode::kIo, {"cannot make folder"});
    prepare_text(good);
    refuse(good, ExitCode::kBadInput, {"is not empty"});
}

TEST(Inspect, ShardReportSaysWhatIsInside) {
    const TemporaryFolder folder;
    write_bytes(folder / "t.txt", "aab\n|aac");
    prepare_text({.text = folder / "t.txt", .out = folder / "out", .val_fraction = 0.0, .separator = "|"});
    const std::string report = inspect_shards(folder / "out/*.bin", {});
    for (const std::string part :
         {"magic 20240520 version 1, 16-bit ids", "1042 bytes, 9 tokens", "ids        0 to 5, 5 different, all below 6",
          "documents  2 by id 5", "1 'a' (44.44%)", "<eot>aab\\n<eot>aac", "1 file, 9 tokens"}) {
        EXPECT_NE(report.find(part), std::string::npos) << "wanted '" << part << "' in\n" << report;
    }
}

TEST(Inspect, IdOutOfRangeIsFoundWhereverItIs) {
    const TemporaryFolder folder;
    std::vector<int32_t> ids(200'000, 3);
    ids[70'001] = 77;
    write_token_shard(folder / "x.bin", ids, 100);
    expect_error(ExitCode::kBadInput, {"token 70001 is id 77"},
                 [&] { inspect_shards(folder / "x.bin", {.vocab_size = 77}); });
    EXPECT_NE(inspect_shards(folder / "x.bin", {}).find("3 to 77, 2 different, not checked"), std::string::npos);
}

TEST(Inspect, EmptyShardIsReported) {
    const TemporaryFolder folder;
    write_token_shard(folder / "x.bin", {}, 100);
    EXPECT_NE(inspect_shards(folder / "x.bin", {.vocab_size = 100}).find("0 tokens"), std::string::npos);
}

TEST(Inspect, ConfiguredDatasetShowsBothSplits) {
    DataConfig config;
    const std::string report = inspect_config(config, 32, 1);
    for (const std::string part : {"training", "validation", "Bigram-Backcopy, 67 ids, 3 triggers", "no end available",
                                   "512 available", "32 of 32 targets scored", "begins     <s>"}) {
        EXPECT_NE(report.find(part), std::string::npos) << "wanted '" << part << "' in\n" << report;
    }
}

}  // namespace
}  // namespace plimsoll
