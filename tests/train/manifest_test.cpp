// Manifests and checksums: what is accepted, and that whatever else a text says is refused in words.
#include "train/manifest.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>

#include "train/crc32c.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

using nlohmann::json;

TEST(Crc32c, MatchesRfc3720) {
    const std::vector<unsigned char> zeros(32, 0), ones(32, 0xff);
    EXPECT_EQ(crc32c(zeros.data(), 32), 0x8a9136aau);
    EXPECT_EQ(crc32c(ones.data(), 32), 0x62a8ab43u);
    EXPECT_EQ(crc32c("123456789", 9), 0xe3069283u);
    EXPECT_EQ(crc32c("6789", 4, crc32c("12345", 5)), 0xe3069283u);  // continued
    std::vector<unsigned char> counting(32), falling(32);
    for (unsigned char i = 0; i < 32; ++i) counting[i] = i, falling[i] = static_cast<unsigned char>(31 - i);
    EXPECT_EQ(crc32c(counting.data(), 32), 0x46dd794eu);
    EXPECT_EQ(crc32c(falling.data(), 32), 0x113fdb5cu);
    EXPECT_EQ(crc32c(nullptr, 0), 0u);
}

// Eight bytes at a time or one by one, from any address, in two texts or in one: the same sum.
TEST(Crc32c, DoesNotDependOnHowTheBytesAreCut) {
    std::string bytes(300, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * i + 7);
    for (size_t begin = 0; begin < 9; ++begin) {
        const uint32_t whole = crc32c(bytes.data() + begin, bytes.size() - begin);
        for (size_t cut = begin; cut <= bytes.size(); ++cut) {
            const uint32_t first = crc32c(bytes.data() + begin, cut - begin);
            ASSERT_EQ(crc32c(bytes.data() + cut, bytes.size() - cut, first), whole) << "from " << begin << ", " << cut;
            const uint32_t second = crc32c(bytes.data() + cut, bytes.size() - cut);
            ASSERT_EQ(crc32c_combine(first, second, bytes.size() - cut), whole) << "from " << begin << ", " << cut;
        }
    }
    const std::string many((1u << 20) + 3, 'x');  // bits of the length beyond the first few
    EXPECT_EQ(crc32c_combine(0x12345678u, crc32c(many.data(), many.size()), many.size()),
              crc32c(many.data(), many.size(), 0x12345678u));
}

// Two files, three pieces: a (4, 5) fp32 in two of them, b (3) fp64.
Manifest example() {
    Manifest m{.state = {.step = 7, .config = "[run]\n", .data_hash = "abc", .tokenizer_hash = "def"},
               .build = "x",
               .chunk_bytes = 32};
    const std::string bytes(104, 'q');
    const auto crcs = [&](int64_t size) {
        std::vector<uint32_t> list;
        for (int64_t at = 0; at < size; at += 32)
            list.push_back(crc32c(bytes.data(), static_cast<size_t>(std::min<int64_t>(32, size - at))));
        return list;
    };
    m.files = {{.bytes = 72, .crc32c = crc32c(bytes.data(), 72)}, {.bytes = 32, .crc32c = crc32c(bytes.data(), 32)}};
    m.tensors = {{.name = "a",
                  .dtype = DType::kF32,
                  .shape = {4, 5},
                  .pieces = {{.file = 0, .offset = 24, .range = {0, 12}, .crc32c = crcs(48)},
                             {.file = 1, .offset = 0, .range = {12, 20}, .crc32c = crcs(32)}}},
                 {.name = "b",
                  .dtype = DType::kF64,
                  .shape = {3},
                  .pieces = {{.file = 0, .offset = 0, .range = {0, 3}, .crc32c = crcs(24)}}}};
    return m;
}

json json_of(const Manifest& manifest) {
    const std::string text = manifest_text(manifest);
    return json::parse(text.substr(0, text.rfind("crc32c ")));
}

// With the right checksum: a manifest written by hand, or by another program, may say anything.
std::string signed_text(const std::string& text) {
    return text + fmt::format("crc32c {:08x}\n", crc32c(text.data(), text.size()));
}

void expect_refused(const std::string& text, const std::string& said, const std::string& what) {
    try {
        parse_manifest(text, "some/MANIFEST");
        ADD_FAILURE() << what << ": accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBadInput) << what << ": " << error.what();
        EXPECT_TRUE(std::string_view(error.what()).starts_with("some/MANIFEST: ")) << what << ": " << error.what();
        EXPECT_NE(std::string_view(error.what()).find(said), std::string_view::npos) << what << ": " << error.what();
    }
}

TEST(Manifest, ComesBackAsItWas) {
    const Manifest m = parse_manifest(manifest_text(example()), "x");
    EXPECT_EQ(manifest_text(m), manifest_text(example()));
    EXPECT_EQ(m.find("b"), 1);
    EXPECT_EQ(m.find("aa"), -1);
    EXPECT_EQ(m.find("c"), -1);
}

TEST(Manifest, ChecksumOfTheTokenizerMayBeMissing) {
    EXPECT_EQ(parse_manifest(manifest_text(example()), "x").state.tokenizer_hash, "def");
    json older = json_of(example());
    older.erase("tokenizer_hash");
    EXPECT_EQ(parse_manifest(signed_text(older.dump()), "x").state.tokenizer_hash, "");
}

TEST(Manifest, EveryMemberIsNeededAndOfOneType) {
    const json good = json_of(example());
    const auto refuse = [&](const std::string& what, const std::function<void(json&)>& change) {
        json manifest = good;
        change(manifest);
        expect_refused(signed_text(manifest.dump()), "", what);
    };
    const json others[] = {json(),           json(true),       json(-7),
                           json(1.5),        json(1e300),      json("text"),
                           json::array({1}), json(UINT64_MAX), json::object({{"x", 1}})};
    const auto try_all = [&](const json& object, const std::string& where) {
        const json::json_pointer base(where);
        for (const auto& entry : object.items()) {
            if (entry.key() == "config_hash") continue;  // for people
            if (entry.key() != "tokenizer_hash")         // which older checkpoints have not
                refuse("no " + entry.key(), [&](json& m) { m[base].erase(entry.key()); });
            for (const json& other : others) {
                const std::string_view key = entry.key();
                const bool any_number = key == "seconds" || key == "best_loss";
                if (other.type() == entry.value().type() || (any_number && other.is_number())) continue;
                if (entry.value().is_number_integer() && other.is_number_unsigned() && other != UINT64_MAX) continue;
                refuse(entry.key() + " = " + other.dump(), [&](json& m) { m[base / entry.key()] = other; });
            }
        }
    };
    try_all(good, "");
    try_all(good["files"][0], "/files/0");
    try_all(good["tensors"][0], "/tensors/0");
    try_all(good["tensors"][0]["pieces"][0], "/tensors/0/pieces/0");
    for (const json& other : others)
        refuse("a checksum", [&](json& m) { m["tensors"][0]["pieces"][0]["crc32c"][0] = other; });
}

TEST(Manifest, LiesAreRefusedAndNamed) {
    const auto refuse = [&](const std::string& said, const std::function<void(json&)>& change) {
        json manifest = json_of(example());
        change(manifest);
        expect_refused(signed_text(manifest.dump()), said, said);
    };
    const auto piece = [](json& m, size_t tensor, size_t number) -> json& {
        return m["tensors"][tensor]["pieces"][number];
    };
    for (const char* name : {"../../etc/passwd", "/etc/passwd", "rank_1.bin", "..", "", "rank_0.bin/x", "rank_00.bin"})
        refuse("must be 'rank_0.bin'", [&](json& m) { m["files"][0]["name"] = name; });
    refuse("names must rise", [](json& m) { m["tensors"][1]["name"] = "a"; });
    refuse("names must rise", [](json& m) { std::swap(m["tensors"][0], m["tensors"][1]); });
    refuse("lacks elements from 11 to 12", [&](json& m) { piece(m, 0, 0)["end"] = 11; });
    refuse("has twice the elements from 11 to 12", [&](json& m) { piece(m, 0, 1)["begin"] = 11; });
    refuse("lacks elements from 0 to 1", [&](json& m) { piece(m, 0, 0)["begin"] = 1; });
    refuse("lacks elements from 12 to 20", [](json& m) { m["tensors"][0]["pieces"].erase(1); });
    refuse("lacks elements from 0 to 12", [](json& m) { m["tensors"][0]["pieces"].erase(0); });
    refuse("has twice the elements", [&](json& m) { m["tensors"][1]["pieces"].push_back(piece(m, 1, 0)); });
    refuse("elements 12 to 21, of 20", [&](json& m) { piece(m, 0, 1)["end"] = 21; });
    refuse("elements 12 to 12", [&](json& m) { piece(m, 0, 1)["end"] = 12; });
    refuse("elements 0 to 9223372036854775807", [&](json& m) { piece(m, 0, 0)["end"] = INT64_MAX; });
    refuse("bytes 25 + 48 of rank_0.bin, which has 72", [&](json& m) { piece(m, 0, 0)["offset"] = 25; });
    refuse("bytes 9223372036854775807 + 48", [&](json& m) { piece(m, 0, 0)["offset"] = INT64_MAX; });
    refuse("of rank_0.bin belong to two tensors", [&](json& m) { piece(m, 0, 0)["offset"] = 0; });
    refuse("belong to nothing", [](json& m) { m["files"][0]["bytes"] = 80; });
    refuse("rank_1.bin has checksum", [](json& m) { m["files"][1]["crc32c"] = 1; });
    refuse("its pieces have", [&](json& m) { piece(m, 0, 1)["crc32c"][0] = 1; });
    refuse("1 checksums, 48 bytes want 2", [&](json& m) { piece(m, 0, 0)["crc32c"].erase(0); });
    refuse("'file' is 2", [&](json& m) { piece(m, 0, 1)["file"] = 2; });
    refuse("unknown dtype", [](json& m) { m["tensors"][0]["dtype"] = "fp16"; });
    refuse("a shape of 0 dimensions", [](json& m) { m["tensors"][0]["shape"] = json::array(); });
    refuse("a shape of 5 dimensions", [](json& m) { m["tensors"][0]["shape"] = {1, 1, 1, 4, 5}; });
    refuse("'shape' is 0", [](json& m) { m["tensors"][0]["shape"] = {0, 5}; });
    refuse("'shape' is 4294967296", [](json& m) { m["tensors"][0]["shape"] = {1ll << 32, 1ll << 32, 1ll << 32}; });
    refuse("'shape' is 4611686018427387904", [](json& m) { m["tensors"][0]["shape"] = {1ll << 62}; });
    refuse("'chunk_bytes' is 0", [](json& m) { m["chunk_bytes"] = 0; });
    refuse("'chunk_bytes' is 67108865", [](json& m) { m["chunk_bytes"] = (64 << 20) + 1; });
    refuse("2 files of 3 ranks", [](json& m) { m["world_size"] = 3; });
    refuse("format 3, this build reads 2", [](json& m) { m["format"] = 3; });
    refuse("'step' is -1", [](json& m) { m["step"] = -1; });
}

TEST(Manifest, TextsThatAreNoManifestsAreRefused) {
    for (const char* text : {"", "{", "{}", "[]", "null", "1", "\"\"", "{\"format\":2}", "\xff\xfe", "{}{}"}) {
        expect_refused(text, "cut off", text);
        if (*text) expect_refused(signed_text(text), "", text);
    }
    expect_refused(signed_text(std::string(1 << 20, '[')), "nested", "deep lists");
    std::string deep = "{\"a\":";
    for (int i = 0; i < 100'000; ++i) deep += "{\"a\":";
    expect_refused(signed_text(deep), "nested", "deep objects");
    expect_refused("{}\ncrc32c 0000000g\n", "damaged", "a strange checksum");
}

TEST(Manifest, EveryFlippedBitAndEveryLengthIsNoticed) {
    const std::string whole = manifest_text(example());
    for (size_t bit = 0; bit < 8 * whole.size(); ++bit) {
        std::string text = whole;
        text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
        expect_refused(text, "", fmt::format("byte {} bit {}", bit / 8, bit % 8));
    }
    for (size_t size = 0; size < whole.size(); ++size)
        expect_refused(whole.substr(0, size), "", fmt::format("cut to {}", size));
    expect_refused(whole + "\n", "cut off", "a byte more");
}

// Bytes of a valid manifest changed at random, with the right checksum: refused in words, or right by chance.
TEST(Manifest, RandomChangesNeverCrash) {
    std::mt19937 random(11);
    const std::string whole = manifest_text(example());
    const std::string good = whole.substr(0, whole.rfind("crc32c "));
    for (int round = 0; round < 4000; ++round) {
        std::string text = good;
        for (unsigned i = 0; i <= random() % 3; ++i) {
            const size_t at = random() % text.size();
            if (random() % 3 == 0)
                text.erase(at, random() % 8);
            else if (random() % 2)
                text.insert(at, 1, "0123456789-\"[]{},:e."[random() % 20]);
            else
                text[at] = static_cast<char>(random());
        }
        try {
            const Manifest m = parse_manifest(signed_text(text), "x");
            EXPECT_EQ(m.tensors.size(), 2u);
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ExitCode::kBadInput) << error.what();
        }
    }
}

TEST(Manifest, SharesOfRanksMustFit) {
    const auto share = [](const std::string& name, DType dtype, Shape shape) {
        Manifest m;
        m.files = {{}};
        m.tensors = {{.name = name, .dtype = dtype, .shape = shape, .pieces = {}}};
        return share_text(m);
    };
    Manifest all;
    add_share(all, share("b", DType::kF32, {4}));
    add_share(all, share("a", DType::kF64, {2}));
    EXPECT_EQ(all.tensors[0].name, "a");
    expect_error(ExitCode::kInternal, {"rank 2", "'b' is bf16"},
                 [&] { add_share(all, share("b", DType::kBF16, {4})); });
    expect_error(ExitCode::kInternal, {"'b' is fp32 (5)"}, [&] { add_share(all, share("b", DType::kF32, {5})); });
    expect_error(ExitCode::kBadInput, {"what rank"}, [&] { add_share(all, "{}"); });
}

}  // namespace
}  // namespace plimsoll
