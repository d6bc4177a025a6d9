// A hostile GGUF file (train/export/gguf_file.h).
#include "fuzz_support.h"
#include "train/export/gguf_file.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    static const std::string path = fuzz_folder() + "/x.gguf";
    write_input(path, {reinterpret_cast<const char*>(data), size});
    accepted(size, [&] {
        const GgufFile file(path);
        for (const auto& [key, value] : file.metadata().entries()) {
            require(file.metadata().find(key) == &value, "a key that is not found");
            shown(value);
        }
        for (const GgufTensor& tensor : file.tensors()) {
            require(file.find(tensor.name) == &tensor, "a tensor that is not found");
            require(
                tensor.offset >= 0 && tensor.bytes > 0 && tensor.offset + tensor.bytes <= static_cast<int64_t>(size),
                "bytes beyond the file");
            accepted(size, [&] {
                std::vector<float> values(static_cast<size_t>(tensor.elements()));
                file.read(tensor, values);
            });
        }
    });
    return 0;
}
