// A hostile checkpoint (train/checkpoint.h): MANIFEST, a zero byte, then rank_0.bin. The checksum line of the manifest
// is made to hold; those of the tensors are the input's.
#include <algorithm>

#include "checkpoint_folder.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const size_t end = std::min(input.find('\0'), size);
    write_checkpoint(fuzz_folder(), with_checksum(body_of(input.substr(0, end))),
                     input.substr(std::min(end + 1, size)));
    const Checkpointer checkpoints(fuzz_folder());
    require(checkpoints.steps() == std::vector<int64_t>{kSeedStep}, "a checkpoint that is not found");
    SeedTensors tensors;
    accepted(size, [&] { checkpoints.load(kSeedStep, tensors.list()); });
    return 0;
}
