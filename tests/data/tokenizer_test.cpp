#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include "data/token_stream.h"
#include "tests/data/data_test_support.h"

namespace plimsoll {
namespace {

TEST(CharTokenizer, NumbersTheDistinctCharactersInAscendingOrder) {
    const auto tokenizer = make_char_tokenizer("banana\n", false);
    EXPECT_EQ(tokenizer->vocab_size(), 4);
    EXPECT_EQ(tokenizer->encode("\nabn"), counting_ids(4));
    EXPECT_EQ(tokenizer->eot_token(), -1);
}

TEST(CharTokenizer, DecodesWhatItEncoded) {
    const auto tokenizer = make_char_tokenizer(excerpt(), false);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(excerpt())), excerpt());
}

TEST(ByteTokenizer, DecodesWhatItEncoded) {
    const std::string bytes("\x00\xff\x80 UTF-8: \xc3\xa9", 13);
    const auto tokenizer = make_byte_tokenizer(false);
    EXPECT_EQ(tokenizer->vocab_size(), 256);
    EXPECT_EQ(tokenizer->encode(bytes)[1], 255);
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(bytes)), bytes);
}

TEST(Tokenizer, EotIsTheLastIdAndDecodesToNothing) {
    const auto tokenizer = make_char_tokenizer("abc", true);
    EXPECT_EQ(tokenizer->vocab_size(), 4);
    EXPECT_EQ(tokenizer->eot_token(), 3);
    EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{3, 0, 1, 3, 2}), "abc");
    EXPECT_EQ(tokenizer->label(3), "<eot>");
    EXPECT_EQ(make_byte_tokenizer(true)->eot_token(), 256);
}

TEST(Tokenizer, LabelsArePrintable) {
    const auto tokenizer = make_byte_tokenizer(false);
    EXPECT_EQ(tokenizer->label('e'), "e");
    EXPECT_EQ(tokenizer->label('\n'), "\\n");
    EXPECT_EQ(tokenizer->label(' '), "\xe2\x90\xa3");
    EXPECT_EQ(tokenizer->label(0), "\\x00");
    EXPECT_EQ(tokenizer->label(200), "\\xc8");
}

TEST(Tokenizer, VocabularyFileRoundTrips) {
    const TemporaryFolder folder;
    for (const bool with_eot : {false, true}) {
        for (const auto& tokenizer : {make_char_tokenizer("hello \xff", with_eot), make_byte_tokenizer(with_eot)}) {
            save_tokenizer(*tokenizer, folder / "tokenizer.json");
            const auto loaded = load_tokenizer(folder / "tokenizer.json");
            EXPECT_EQ(loaded->to_json(), tokenizer->to_json());
            EXPECT_EQ(loaded->content_hash(), tokenizer->content_hash());
            EXPECT_EQ(loaded->kind(), tokenizer->kind());
            EXPECT_EQ(loaded->encode("hello"), tokenizer->encode("hello"));
        }
    }
    EXPECT_NE(make_char_tokenizer("ab", false)->content_hash(), make_char_tokenizer("ac", false)->content_hash());
    EXPECT_NE(make_char_tokenizer("ab", false)->content_hash(), make_char_tokenizer("ab", true)->content_hash());
}

TEST(Tokenizer, UnknownCharacterIsNamedWithItsOffset) {
    const auto tokenizer = make_char_tokenizer("abc", false);
    expect_error(ExitCode::kBadInput, {"'\\n' at byte 3", "3 characters"}, [&] { tokenizer->encode("abc\nd"); });
    expect_error(ExitCode::kBadInput, {"'d' at byte 1", "counted from byte 3"},
                 [&] { encode_documents("ab|cd", *make_char_tokenizer("abc|", false), "|", DocumentMark::kIndex); });
}

TEST(Tokenizer, IdOutsideTheVocabularyIsRefused) {
    const auto tokenizer = make_char_tokenizer("abc", false);
    for (const int32_t id : {-1, 3}) {
        expect_error(ExitCode::kBadInput, {fmt::format("id {}", id), "vocabulary of 3"},
                     [&] { tokenizer->token_bytes(id); });
    }
}

TEST(Tokenizer, EmptyTextIsRefused) {
    expect_error(ExitCode::kBadInput, {"text is empty"}, [] { make_char_tokenizer("", false); });
}

TEST(Tokenizer, MalformedVocabularyFilesAreRefused) {
    const TemporaryFolder folder;
    const auto refuse = [&](std::string_view content, std::initializer_list<std::string_view> parts) {
        write_bytes(folder / "tokenizer.json", content);
        expect_error(ExitCode::kBadInput, parts, [&] { load_tokenizer(folder / "tokenizer.json"); });
    };
    const std::string head = R"({"format": "plimsoll-tokenizer", "version": 1, "kind": "char", )";
    refuse("{\"format\": ", {"tokenizer.json", "parse error"});
    refuse("{}", {"format"});
    refuse(R"({"format": "other", "version": 1})", {"\"other\"", "wanted 'plimsoll-tokenizer' version 1"});
    refuse(head + R"("eot_token": null, "bytes": [1, 1]})", {"bytes[1] is 1", "ascending"});
    refuse(head + R"("eot_token": null, "bytes": [1, 256]})", {"bytes[1] is 256"});
    refuse(head + R"("eot_token": null, "bytes": []})", {"empty"});
    refuse(head + R"("eot_token": 7, "bytes": [1, 2]})", {"eot_token is 7", "wanted the last id, 2"});
    refuse(R"({"format": "plimsoll-tokenizer", "version": 1, "kind": "bpe", "eot_token": null, "bytes": [1]})",
           {"'bpe'"});
    refuse(head + R"("eot_token": null, "bytes": [1.5]})", {"bytes[0] is 1.5"});
    refuse(head + R"("eot_token": null, "bytes": [true]})", {"bytes[0] is true"});
    refuse(head + R"("eot_token": null, "bytes": [1e300]})", {"bytes[0] is 1e+300"});
    refuse(head + R"("eot_token": null, "bytes": [18446744073709551615]})", {"bytes[0] is 18446744073709551615"});
    refuse(head + R"("eot_token": null, "bytes": {"a": 1}})", {"actual type is object"});
    refuse(head + R"("eot_token": 2.0, "bytes": [1, 2]})", {"eot_token is 2.0"});
    refuse(std::string(100'000, ' '), {"parse error"});
    // Lists in lists, deep enough to overflow a stack that takes a frame for each.
    const std::string deep = std::string(30'000, '[') + std::string(30'000, ']');
    refuse(R"({"version": 1, "format": )" + deep + "}", {"an array", "plimsoll-tokenizer"});
    refuse(head + R"("eot_token": )" + deep + R"(, "bytes": [1, 2]})", {"eot_token is an array"});
    refuse(head + R"("eot_token": null, "bytes": [)" + deep + "]}", {"bytes[0] is an array"});
    expect_error(ExitCode::kBadInput, {"missing.json", "cannot be opened"},
                 [&] { load_tokenizer(folder / "missing.json"); });
}

TEST(EncodeDocuments, EotStandsBeforeEachDocumentAndReplacesTheSeparator) {
    const auto tokenizer = make_char_tokenizer("abc|", true);
    const int32_t eot = tokenizer->eot_token();
    const EncodedText text = encode_documents("|ab||c|", *tokenizer, "|", DocumentMark::kEotToken);
    EXPECT_EQ(text.ids, (std::vector<int32_t>{eot, 0, 1, eot, 2}));
    EXPECT_TRUE(text.document_starts.empty());
}

TEST(EncodeDocuments, IndexKeepsTheTextAndNotesWhereDocumentsStart) {
    const auto tokenizer = make_byte_tokenizer(false);
    const EncodedText text = encode_documents("ab\n\ncd\n\n\n\ne", *tokenizer, "\n\n", DocumentMark::kIndex);
    EXPECT_EQ(tokenizer->decode(text.ids), "ab\n\ncd\n\n\n\ne");
    EXPECT_EQ(text.document_starts, (std::vector<int64_t>{0, 4, 10}));
}

}  // namespace
}  // namespace plimsoll
