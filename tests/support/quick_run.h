// A training run of milliseconds.
#pragma once

#include "train/config.h"

namespace plimsoll {

// The quickstart into `dir`, in fp32, with a network of 16 channels on rows of 16 tokens.
inline RunConfig quick_run(const std::string& dir, int64_t steps, const std::string& variant = {}) {
    RunConfig c =
        load_config({.file = PLIMSOLL_SOURCE_DIR "/configs/quickstart.toml", .variant = variant, .overrides = {}});
    c.run.dir = dir, c.run.precision = "fp32";
    c.model.channels = 16, c.model.context = 16, c.model.ffn = 24;
    c.train.max_steps = steps;
    return c;
}

}  // namespace plimsoll
