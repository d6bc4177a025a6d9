// A hostile checkpoint (train/checkpoint_file.h): MANIFEST, a zero byte, then rank_0.bin. The checksum line of the
// manifest is made to hold; those of the tensors are the input's.
#include <algorithm>

#include "checkpoint_folder.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const size_t end = std::min(input.find('\0'), size);
    write_input(fuzz_folder() + "/MANIFEST", with_checksum(body_of(input.substr(0, end))));
    write_input(fuzz_folder() + "/" + data_file_name(0), input.substr(std::min(end + 1, size)));
    SeedTensors tensors;
    accepted(size, [&] {
        const Manifest manifest = read_manifest(fuzz_folder());
        accepted(size, [&] { load_parts(fuzz_folder(), manifest, {}, 0, 1); });
        load_parts(fuzz_folder(), manifest, tensors.parts(), 0, 1);
    });
    return 0;
}
