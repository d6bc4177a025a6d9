// A hostile configuration: as a file, and as the text of --set.
#include "fuzz_support.h"
#include "train/config.h"

using namespace plimsoll;

namespace {

// A configuration that passes reads back as itself.
void check_round_trip(const RunConfig& config) {
    const std::string again = fuzz_folder() + "/resolved.toml";
    const std::string text = resolved_toml(config);
    write_input(again, text);
    require(resolved_toml(load_config({.file = again, .variant = {}, .overrides = {}})) == text,
            "a resolved configuration reads back as another");
    require(config.max_steps() > 0 && config.micro_batches() > 0, "a valid configuration without steps");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    static const std::string file = fuzz_folder() + "/run.toml", empty = fuzz_folder() + "/empty.toml";
    static const bool once = (write_input(empty, ""), true);
    (void)once;
    write_input(file, input);
    accepted(size, [&] {
        const RunConfig config = load_config({.file = file, .variant = {}, .overrides = {}});
        config.validate();
        check_round_trip(config);
    });
    accepted(size, [&] { load_config({.file = empty, .variant = {}, .overrides = {std::string(input)}}).validate(); });
    return 0;
}
