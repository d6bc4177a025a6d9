#include "data/utf8.h"

#include <gtest/gtest.h>

#include <vector>

#include "data/unicode_classes.h"

namespace plimsoll {
namespace {

std::vector<char32_t> codes(std::string_view text) {
    std::vector<char32_t> all;
    for (size_t at = 0; at < text.size();) {
        const Utf8Symbol symbol = utf8_symbol(text, at);
        all.push_back(symbol.code);
        at += symbol.bytes;
    }
    return all;
}

TEST(Utf8, EveryCodePointComesBackAndSurrogatesDoNot) {
    for (char32_t code = 0; code <= 0x10ffff; ++code) {
        std::string text;
        append_utf8(code, text);
        const bool surrogate = code >= 0xd800 && code < 0xe000;
        const std::vector<char32_t> wanted(surrogate ? 3 : 1, surrogate ? kInvalidByte : code);
        ASSERT_EQ(codes(text), wanted) << static_cast<uint32_t>(code);
    }
}

TEST(Utf8, EachByteThatIsNoCharacterIsASymbol) {
    const std::vector<char32_t> two(2, kInvalidByte), three(3, kInvalidByte), four(4, kInvalidByte);
    EXPECT_EQ(codes("\x80\xff"), two);           // continuation, never a byte
    EXPECT_EQ(codes("\xc0\x80"), two);           // overlong NUL
    EXPECT_EQ(codes("\xe0\x9f\xbf"), three);     // overlong U+07FF
    EXPECT_EQ(codes("\xf0\x8f\xbf\xbf"), four);  // overlong U+FFFF
    EXPECT_EQ(codes("\xf4\x90\x80\x80"), four);  // U+110000
    EXPECT_EQ(codes("\xe2\x82"), two);           // cut off
    EXPECT_EQ(codes("\xe2\x82z"), (std::vector<char32_t>{kInvalidByte, kInvalidByte, 'z'}));
    EXPECT_EQ(codes("\xe2\xe2\x82\xac"), (std::vector<char32_t>{kInvalidByte, 0x20ac}));
}

TEST(Utf8Stream, HoldsBackOnlyTheBeginningOfACharacter) {
    const std::string text =
        "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x91\x8d"
        "b";
    for (size_t step = 1; step <= text.size(); ++step) {
        Utf8Stream stream;
        std::string whole;
        for (size_t at = 0; at < text.size(); at += step) {
            const std::string part = stream.push(std::string_view(text).substr(at, step));
            for (const char32_t code : codes(part)) EXPECT_NE(code, kInvalidByte) << "steps of " << step;
            whole += part;
        }
        EXPECT_EQ(whole, text);
        EXPECT_EQ(stream.finish(), "");
    }
}

TEST(Utf8Stream, GivesEveryByteEvenOfWhatIsNoUtf8) {
    Utf8Stream stream;
    EXPECT_EQ(stream.push("\xf0\x9f"), "");
    EXPECT_EQ(stream.push("z"), "\xf0\x9fz");
    EXPECT_EQ(stream.push("\x80\x80\xff"), "\x80\x80\xff");
    EXPECT_EQ(stream.push("\xed\xa0"), "\xed\xa0");  // begins a surrogate: cannot become a character
    EXPECT_EQ(stream.push("x\xf0\x9f\x91"), "x");
    EXPECT_EQ(stream.finish(), "\xf0\x9f\x91");
    EXPECT_EQ(stream.finish(), "");
}

TEST(UnicodeClasses, AreThoseOfUnicode16) {
    const auto expect = [](CharClass wanted, std::initializer_list<char32_t> codes) {
        for (const char32_t code : codes)
            EXPECT_EQ(static_cast<int>(char_class(code)), static_cast<int>(wanted)) << static_cast<uint32_t>(code);
    };
    expect(CharClass::kLetter, {'A', 'z', 0xaa, 0xe9, 0x17f, 0x3042, 0x6f22, 0xd55c, 0x105c0, 0x323af});
    expect(CharClass::kNumber, {'0', '9', 0xb2, 0xbd, 0x663, 0x2167, 0x2460, 0x1fbf9});
    expect(CharClass::kSpace, {' ', '\t', '\n', '\v', '\f', '\r', 0x85, 0xa0, 0x1680, 0x2003, 0x2028, 0x2029, 0x3000});
    // Control characters that Python's str.isspace() counts; marks; U+180E and U+200B, which were spaces once.
    expect(CharClass::kOther,
           {0, 0x1c, 0x1f, '_', 0x301, 0x180e, 0x200b, 0x1f44d, 0xe000, 0x378, 0x10ffff, 0x110000, kInvalidByte});
}

}  // namespace
}  // namespace plimsoll
