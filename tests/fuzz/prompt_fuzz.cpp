// A hostile text (a prompt, a document) for byte-level BPE by each of the split rules, and a hostile stream of bytes.
#include <algorithm>

#include "data/bpe.h"
#include "data/utf8.h"
#include "fuzz_support.h"

using namespace plimsoll;

namespace {

// All bytes, merges among letters, blanks and halves of characters, and tokens that are looked for in the text.
std::unique_ptr<Tokenizer> make_tokenizer(SplitRule split) {
    BpeModel model{.split = split, .ignore_merges = split == SplitRule::kLlama3};
    for (int byte = 0; byte < 256; ++byte) {
        const char c = static_cast<char>(byte);
        model.tokens.push_back(unicode_form({&c, 1}));
    }
    for (const auto& [left, right] :
         {std::pair<int, int>{'a', 'a'}, {256, 256}, {' ', 'a'}, {0xc3, 0xa9}, {'\n', '\n'}, {'1', '2'}}) {
        const std::string both = model.tokens[static_cast<size_t>(left)] + model.tokens[static_cast<size_t>(right)];
        model.merges.push_back({left, right, static_cast<int32_t>(model.tokens.size())});
        model.tokens.push_back(both);
    }
    for (const char* text : {"<|endoftext|>", "  two", "<|"}) {
        const auto id = static_cast<int32_t>(model.tokens.size());
        model.added.push_back(
            {.text = text, .id = id, .special = text[0] == '<' && text[2] == 'e', .normalized = text[0] == ' '});
        model.tokens.push_back(text);
    }
    return make_bpe_tokenizer(std::move(model), "fuzz");
}

void check_pieces(SplitRule rule, std::string_view text) {
    for (size_t begin = 0; begin < text.size();) {
        const size_t end = piece_end(rule, text, begin);
        require(end > begin && end <= text.size(), "a piece that does not end");
        begin = end;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    for (const SplitRule rule : {SplitRule::kWhole, SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kQwen2}) {
        static const auto tokenizers = [] {
            std::vector<std::unique_ptr<Tokenizer>> all;
            for (const SplitRule each : {SplitRule::kWhole, SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kQwen2})
                all.push_back(make_tokenizer(each));
            return all;
        }();
        check_pieces(rule, input);
        const Tokenizer& tokenizer = *tokenizers[static_cast<size_t>(rule)];
        require(tokenizer.decode(tokenizer.encode(input)) == input, "a text that does not come back from its ids");
        std::string back;
        for (const int32_t id : tokenizer.encode(input, SpecialTokens::kParse)) {
            back += tokenizer.token_bytes(id);
            back += tokenizer.control_text(id);
        }
        require(back == input, "a text with special tokens that does not come back");
    }
    Utf8Stream stream;
    std::string streamed;
    for (size_t at = 0, step = 1; at < size; at += step, step = step % 3 + 1) {
        streamed += stream.push(input.substr(at, step));
        require(streamed.size() + 3 >= std::min(size, at + step),
                "more than the beginning of a character is held back");
    }
    streamed += stream.finish();
    require(streamed == input, "a stream that loses bytes");
    return 0;
}
