// A hostile config.json of Hugging Face's transformers (train/export/hf_layout.h).
#include <nlohmann/json.hpp>

#include "fuzz_support.h"
#include "train/export/hf_layout.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string input(reinterpret_cast<const char*>(data), size);
    accepted(size, [&] {
        const HfModel model = parse_hf_config(input, "config.json");
        model.network.validate();
        require(model.network.vocab >= 2, "a vocabulary of an impossible size");
        const std::string again = hf_config(model).dump();
        if (model.network.attention.window == std::vector<int64_t>{0} && model.qkv_bias == model.out_bias)
            require(hf_config(parse_hf_config(again, "again")).dump() == again,
                    "a configuration that reads back as another");
    });
    return 0;
}
