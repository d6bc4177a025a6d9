// A hostile MANIFEST of a checkpoint (train/checkpoint.h): as it is, and with a checksum line that holds, which gets it
// past the first check.
#include "checkpoint_folder.h"
#include "fuzz_support.h"

using namespace plimsoll;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    const Checkpointer checkpoints(fuzz_folder());
    for (const std::string& manifest : {std::string(input), with_checksum(body_of(input))}) {
        write_checkpoint(fuzz_folder(), manifest, std::string(SeedTensors::kBytes, '\0'));
        accepted(manifest.size(), [&] {
            const TrainingState state = checkpoints.read_state(kSeedStep);
            require(state.step == kSeedStep, "a manifest of another step than its folder");
            require(state.samples >= 0 && state.tokens >= 0, "a negative count");
        });
    }
    return 0;
}
