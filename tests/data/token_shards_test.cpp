#include "data/token_shards.h"

#include <gtest/gtest.h>

#include <cstring>

#include "data/document_index.h"
#include "data/windows.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

// A shard as bytes, so that every field can be wrong.
std::string shard_bytes(int32_t magic, int32_t version, int32_t tokens, std::string_view payload) {
    std::string bytes(kShardHeaderBytes, '\0');
    const std::vector<int32_t> header{magic, version, tokens};
    std::memcpy(bytes.data(), header.data(), 3 * sizeof(int32_t));
    return bytes + std::string(payload);
}

std::vector<int32_t> read_all(const TokenStream& stream) {
    std::vector<int32_t> ids(static_cast<size_t>(stream.size()));
    stream.read(0, ids);
    return ids;
}

TEST(TokenShards, SixteenBitFormatIsLlmcByteForByte) {
    const TemporaryFolder folder;
    write_token_shard(folder / "x.bin", std::vector<int32_t>{1, 258, 50256}, 50257);
    EXPECT_EQ(read_file(folder / "x.bin", "shard"),
              shard_bytes(20240520, 1, 3, std::string_view("\x01\x00\x02\x01\x50\xc4", 6)));
    EXPECT_FALSE(std::filesystem::exists(folder / "x.bin.temporary"));
}

TEST(TokenShards, ThirtyTwoBitFormatIsUsedAboveA65535Vocabulary) {
    const TemporaryFolder folder;
    write_token_shard(folder / "x.bin", std::vector<int32_t>{1, 128255}, 128256);
    EXPECT_EQ(read_file(folder / "x.bin", "shard"),
              shard_bytes(20240801, 7, 2, std::string_view("\x01\x00\x00\x00\xff\xf4\x01\x00", 8)));
    EXPECT_EQ(&shard_format_for(65535), &kShard16);
    EXPECT_EQ(&shard_format_for(65536), &kShard32);
}

TEST(TokenShards, ReadBackWhatWasWrittenAcrossFilesInTheOrderOfTheirNames) {
    const TemporaryFolder folder;
    const auto ids = counting_ids(1000);
    for (const int64_t vocab_size : {int64_t{1000}, int64_t{70000}}) {
        write_token_shard(folder / "s_2.bin", std::span(ids).subspan(700), vocab_size);
        write_token_shard(folder / "s_0.bin", std::span(ids).first(1), vocab_size);
        write_token_shard(folder / "s_1.bin", std::span(ids).subspan(1, 699), vocab_size);
        const TokenShards shards(folder / "s_*.bin", vocab_size, "data.shards");
        EXPECT_EQ(shards.size(), 1000);
        EXPECT_EQ(read_all(shards), ids);
        for (const int64_t offset : {0, 1, 650, 700, 990}) {
            std::vector<int32_t> part(10);
            shards.read(offset, part);
            EXPECT_EQ(part.front(), offset);
            EXPECT_EQ(part.back(), offset + 9);
        }
    }
}

TEST(TokenShards, HashFollowsTheContentAndNotTheName) {
    const TemporaryFolder folder;
    const auto ids = counting_ids(100);
    const auto hash = [&](const std::string& name, std::span<const int32_t> tokens) {
        write_token_shard(folder / name, tokens, 1000);
        return TokenShards(folder / name, 1000, "data.shards").content_hash();
    };
    const uint64_t base = hash("a.bin", ids);
    EXPECT_EQ(base, hash("b.bin", ids));
    EXPECT_NE(base, hash("c.bin", std::span(ids).first(99)));
    auto changed = ids;
    changed[57] = 3;
    EXPECT_NE(base, hash("d.bin", changed));
}

TEST(TokenShards, TruncatedFileIsRefusedWithBothCounts) {
    const TemporaryFolder folder;
    const std::string path = folder / "x.bin";
    write_bytes(path, shard_bytes(20240520, 1, 1000, std::string(2 * 998, '\0')));
    expect_error(ExitCode::kBadInput,
                 {"token shard '" + path + "': header says 1000 tokens, file holds 998; was the download cut off?"},
                 [&] { TokenShard shard(path); });
}

TEST(TokenShards, MalformedFilesAreRefused) {
    const TemporaryFolder folder;
    const auto refuse = [&](std::string_view bytes, std::initializer_list<std::string_view> parts) {
        write_bytes(folder / "x.bin", bytes);
        expect_error(ExitCode::kBadInput, parts, [&] { TokenShard shard(folder / "x.bin"); });
    };
    refuse("", {"0 bytes", "header of 1024", "cut off"});
    refuse(std::string(1023, '\0'), {"1023 bytes"});
    refuse(shard_bytes(20240521, 1, 0, ""), {"magic 20240521", "wanted 20240520 (uint16) or 20240801 (uint32)"});
    refuse(shard_bytes(20240520, 7, 0, ""), {"magic 20240520 with version 7", "wanted version 1"});
    refuse(shard_bytes(20240801, 1, 0, ""), {"magic 20240801 with version 1", "wanted version 7"});
    refuse(shard_bytes(20240520, 1, 2, "abcde"),
           {"5 bytes after the header", "header says 2 tokens, file holds 2 and a rest"});
    refuse(shard_bytes(20240801, 7, 1, "abcdef"), {"not a multiple of 4"});
    refuse(shard_bytes(20240520, 1, 1, "abcd"),
           {"header says 1 tokens, file holds 2", "header written for another file"});
    refuse(shard_bytes(20240520, 1, -1, "ab"), {"header says -1 tokens, file holds 1"});
}

TEST(TokenShards, MissingFilesAreNamedWithTheirKey) {
    const TemporaryFolder folder;
    expect_error(ExitCode::kBadInput, {"data.shards = '", "none_*.bin", "no file matches"},
                 [&] { TokenShards(folder / "none_*.bin", 10, "data.shards"); });
    std::filesystem::create_directory(folder / "d.bin");
    expect_error(ExitCode::kBadInput, {"d.bin", "not a regular file"}, [&] { TokenShard shard(folder / "d.bin"); });
}

TEST(TokenShards, IdOutOfRangeIsNamedWithFileAndOffsetWhenItIsRead) {
    const TemporaryFolder folder;
    auto ids = counting_ids(100);
    ids[73] = 101;
    write_token_shard(folder / "x.bin", ids, 102);
    const TokenShards shards(folder / "x.bin", 100, "data.shards");
    std::vector<int32_t> part(10);
    EXPECT_NO_THROW(shards.read(60, part));
    expect_error(ExitCode::kBadInput, {"x.bin", "token 73 is id 101", "data.vocab_size = 100"},
                 [&] { shards.read(70, part); });
    // An id above 2^31 must not turn negative.
    write_bytes(folder / "y.bin", shard_bytes(20240801, 7, 1, "\xff\xff\xff\xff"));
    const TokenShards wide(folder / "y.bin", 128256, "data.shards");
    expect_error(ExitCode::kBadInput, {"token 0 is id 4294967295"}, [&] { wide.read(0, std::span(part).first(1)); });
}

TEST(WriteTokenShard, RefusesIdsAndPathsThatCannotBeWritten) {
    const TemporaryFolder folder;
    for (const int32_t id : {-1, 10}) {
        expect_error(ExitCode::kBadInput, {fmt::format("token 1 is id {}", id), "0 to 9"}, [&] {
            write_token_shard(folder / "x.bin", std::vector<int32_t>{0, id}, 10);
        });
    }
    EXPECT_FALSE(std::filesystem::exists(folder / "x.bin"));
    expect_error(ExitCode::kIo, {"no_such_folder/x.bin.temporary", "No such file"},
                 [&] { write_token_shard(folder / "no_such_folder/x.bin", counting_ids(3), 10); });
}

TEST(DocumentIndex, RoundTripsAndPlacesStartsInTheStream) {
    const TemporaryFolder folder;
    write_token_shard(folder / "s_0.bin", counting_ids(10), 100);
    write_token_shard(folder / "s_1.bin", counting_ids(20), 100);
    write_document_index(folder / "s_0.bin", 10, std::vector<int64_t>{0, 7});
    write_document_index(folder / "s_1.bin", 20, std::vector<int64_t>{3});
    EXPECT_EQ(read_document_index(folder / "s_0.bin", 10), (std::vector<int64_t>{0, 7}));
    const TokenShards shards(folder / "s_*.bin", 100, "data.shards");
    std::vector<int64_t> starts;
    shards.document_starts(5, 9, starts);  // stream offsets 5 .. 13
    EXPECT_EQ(starts, (std::vector<int64_t>{2, 8}));
}

TEST(DocumentIndex, MalformedFilesAreRefused) {
    const TemporaryFolder folder;
    const std::string shard = folder / "x.bin";
    write_document_index(shard, 10, std::vector<int64_t>{0, 4, 9});
    const std::string good = read_file(document_index_path(shard), "index");
    ASSERT_EQ(good.size(), 8u + 3 * 8 + 3 * 8);
    const auto refuse = [&](std::string bytes, std::initializer_list<std::string_view> parts) {
        write_bytes(document_index_path(shard), bytes);
        expect_error(ExitCode::kBadInput, parts, [&] { read_document_index(shard, 10); });
    };
    const auto with = [&](size_t word, uint64_t value) {
        std::string bytes = good;
        std::memcpy(bytes.data() + 8 * word, &value, sizeof value);
        return bytes;
    };
    refuse(good.substr(0, 20), {"20 bytes without the magic"});
    refuse(with(0, 0), {"without the magic 'PLIMSIDX'"});
    refuse(with(1, 2), {"version 2, wanted 1"});
    refuse(with(2, 11), {"made for a shard of 11 tokens", "holds 10"});
    refuse(with(3, 4), {"header says 4 documents, file holds 3"});
    refuse(with(3, uint64_t{1} << 61), {"file holds 3"});
    refuse(good.substr(0, good.size() - 1), {"header says 3 documents, file holds 2"});
    refuse(with(5, 0), {"offset 1 is 0, wanted more than 0"});
    refuse(with(6, 10), {"offset 2 is 10", "less than 10 tokens"});
    refuse(with(6, ~uint64_t{0}), {"offset 2 is 18446744073709551615"});
}

TEST(DocumentIndex, EveryShardHasOneOrNone) {
    const TemporaryFolder folder;
    write_token_shard(folder / "s_0.bin", counting_ids(10), 100);
    write_token_shard(folder / "s_1.bin", counting_ids(10), 100);
    write_document_index(folder / "s_1.bin", 10, std::vector<int64_t>{0});
    expect_error(ExitCode::kBadInput, {"s_0.bin", "s_1.bin", "do not agree"},
                 [&] { TokenShards(folder / "s_*.bin", 100, "data.shards"); });
}

}  // namespace
}  // namespace plimsoll
