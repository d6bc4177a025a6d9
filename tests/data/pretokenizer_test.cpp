#include "data/pretokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace plimsoll {
namespace {

using Pieces = std::vector<std::string>;

Pieces pieces(SplitRule rule, std::string_view text) {
    Pieces all;
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = piece_end(rule, text, begin);
        all.emplace_back(text.substr(begin, end - begin));
        begin = end;
    }
    return all;
}

// What pre_tokenizers.Split of Hugging Face's library (0.23) makes of these texts.
TEST(Pretokenizer, CutsWhereTheExpressionsDo) {
    const SplitRule gpt2 = SplitRule::kGpt2, llama3 = SplitRule::kLlama3, qwen2 = SplitRule::kQwen2;
    EXPECT_EQ(pieces(gpt2, "I'll don't 'Sir HE'LL"), (Pieces{"I", "'ll", " don", "'t", " '", "Sir", " HE", "'", "LL"}));
    EXPECT_EQ(pieces(llama3, "I'll don't 'Sir HE'LL"), (Pieces{"I", "'ll", " don", "'t", " '", "Sir", " HE", "'LL"}));
    const std::string long_s =
        "a'\u017f"
        "b'rex";
    EXPECT_EQ(pieces(gpt2, long_s), (Pieces{"a", "'",
                                            "\u017f"
                                            "b",
                                            "'re", "x"}));
    EXPECT_EQ(pieces(llama3, long_s), (Pieces{"a", "'\u017f", "b", "'re", "x"}));
    EXPECT_EQ(pieces(gpt2, "12345 678"), (Pieces{"12345", " 678"}));
    EXPECT_EQ(pieces(llama3, "12345 678"), (Pieces{"123", "45", " ", "678"}));
    EXPECT_EQ(pieces(qwen2, "123 67"), (Pieces{"1", "2", "3", " ", "6", "7"}));
    for (const SplitRule rule : {gpt2, llama3, qwen2})
        EXPECT_EQ(pieces(rule, "x  y\n\n z \t"), (Pieces{"x", " ", " y", "\n\n", " z", " \t"}));
    EXPECT_EQ(pieces(gpt2, "#tag\tfoo!?\r\n\r\nbar"), (Pieces{"#", "tag", "\t", "foo", "!?", "\r\n\r", "\n", "bar"}));
    EXPECT_EQ(pieces(llama3, "#tag\tfoo!?\r\n\r\nbar"), (Pieces{"#tag", "\tfoo", "!?\r\n\r\n", "bar"}));
    EXPECT_EQ(pieces(gpt2, " \n \n  z"), (Pieces{" \n \n ", " z"}));
    EXPECT_EQ(pieces(llama3, " \n \n  z"), (Pieces{" \n \n", " ", " z"}));
    EXPECT_EQ(pieces(SplitRule::kWhole, "a b\n"), (Pieces{"a b\n"}));
}

TEST(Pretokenizer, ExpressionsAreFoundByTheirText) {
    for (const SplitRule rule : {SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kQwen2})
        EXPECT_EQ(find_split_rule(info_of(rule).regex), &info_of(rule));
    EXPECT_EQ(find_split_rule(""), nullptr);
    EXPECT_EQ(find_split_rule("\\s+"), nullptr);
}

}  // namespace
}  // namespace plimsoll
