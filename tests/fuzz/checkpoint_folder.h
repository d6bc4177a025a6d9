// The checkpoint that seeds the fuzz targets of train/manifest.h and train/checkpoint_file.h.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz_support.h"
#include "train/checkpoint_file.h"
#include "train/crc32c.h"

namespace plimsoll {

// Two small tensors: what the seed saves, and what the target loads into.
class SeedTensors {
  public:
    SeedTensors() {
        for (size_t i = 0; i < values_.size(); ++i) values_[i] = 0.25f * static_cast<float>(i) + 1.0f;
    }
    std::vector<CheckpointPart> parts() {
        return {part("m/wte.weight", values_.data()), part("parameters/wte.weight", values_.data() + 12)};
    }

  private:
    static CheckpointPart part(const char* name, float* values) {
        return {.name = name, .shape = {4, 3}, .range = {0, 12}, .data = Tensor(values, DType::kF32, {12})};
    }
    std::array<float, 24> values_{};
};

// A manifest without its last line, the checksum.
inline std::string_view body_of(std::string_view manifest) {
    return manifest.substr(0, manifest.rfind("crc32c "));
}

inline std::string with_checksum(std::string_view body) {
    return fmt::format("{}crc32c {:08x}\n", body, crc32c(body.data(), body.size()));
}

}  // namespace plimsoll
