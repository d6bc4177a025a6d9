// A hostile safetensors file (train/export/safetensors_file.h).
#include "fuzz_support.h"
#include "train/export/safetensors_file.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    static const std::string path = fuzz_folder() + "/x.safetensors";
    write_input(path, {reinterpret_cast<const char*>(data), size});
    accepted(size, [&] {
        const SafetensorsFile file(path);
        for (const auto& entry : file.tensors()) {
            const SafeTensor& tensor = entry.second;
            require(
                tensor.offset >= 0 && tensor.bytes >= 0 && tensor.offset + tensor.bytes <= static_cast<int64_t>(size),
                "bytes beyond the file");
            if (tensor.dtype.find('8') != std::string::npos || tensor.dtype == "BOOL") continue;  // four times the file
            accepted(size, [&] {
                std::vector<float> values(static_cast<size_t>(tensor.elements()));
                file.read(entry.first, values);
            });
        }
    });
    return 0;
}
