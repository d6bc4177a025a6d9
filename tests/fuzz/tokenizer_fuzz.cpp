// A hostile tokenizer.json (data/tokenizer.h), plimsoll's or Hugging Face's; its own text is what it encodes.
#include "data/file.h"
#include "data/tokenizer.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    static const std::string path = fuzz_folder() + "/tokenizer.json", again = fuzz_folder() + "/again.json";
    write_input(path, input);
    accepted(size, [&] {
        const auto tokenizer = load_tokenizer(path);
        const int64_t vocab = tokenizer->vocab_size();
        const bool bpe = tokenizer->kind() == "bpe";
        require(vocab >= 1 && vocab <= (bpe ? static_cast<int64_t>(size) : 257), "a vocabulary of an impossible size");
        std::vector<int32_t> ids;
        for (int32_t id = 0; id < vocab; ++id) {
            tokenizer->label(id);
            if (id != tokenizer->eot_token()) ids.push_back(id);
        }
        const VocabularyTable table = tokenizer->vocabulary();
        require(static_cast<int64_t>(table.tokens.size()) == vocab && table.types.size() == table.tokens.size(),
                "a table of another size");
        require(table.eos == tokenizer->eot_token() && table.bos < vocab, "a table with other special tokens");
        // The ids of a text of BPE are not any ids.
        if (!bpe)
            require(tokenizer->encode(tokenizer->decode(ids)) == ids, "ids that do not come back from their text");
        write_input(again, tokenizer->to_json());
        require(load_tokenizer(again)->to_json() == tokenizer->to_json(), "a tokenizer that reads back as another");
        for (const SpecialTokens specials : {SpecialTokens::kAsText, SpecialTokens::kParse}) {
            ids.clear();
            if (!accepted(size, [&] { tokenizer->encode(input, ids, specials); })) continue;
            std::string back;
            for (const int32_t id : ids) {
                back += tokenizer->token_bytes(id);
                back += tokenizer->control_text(id);
            }
            // Blanks may be added before each text between special tokens.
            require(table.add_prefix_space || back == input, "a text that does not come back from its ids");
        }
    });
    return 0;
}
