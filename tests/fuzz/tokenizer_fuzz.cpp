// A hostile tokenizer.json (data/tokenizer.h).
#include "data/file.h"
#include "data/tokenizer.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    static const std::string path = fuzz_folder() + "/tokenizer.json", again = fuzz_folder() + "/again.json";
    write_input(path, input);
    accepted(size, [&] {
        const auto tokenizer = load_tokenizer(path);
        const int64_t vocab = tokenizer->vocab_size();
        require(vocab >= 1 && vocab <= 257, "a vocabulary of an impossible size");
        std::vector<int32_t> ids;
        for (int32_t id = 0; id < vocab; ++id) {
            tokenizer->label(id);
            if (id != tokenizer->eot_token()) ids.push_back(id);
        }
        require(tokenizer->encode(tokenizer->decode(ids)) == ids, "ids that do not come back from their text");
        write_input(again, tokenizer->to_json());
        require(load_tokenizer(again)->to_json() == tokenizer->to_json(), "a tokenizer that reads back as another");
        if (!accepted(size, [&] { tokenizer->encode(input); })) return;
        require(tokenizer->decode(tokenizer->encode(input)) == input, "a text that does not come back from its ids");
    });
    return 0;
}
