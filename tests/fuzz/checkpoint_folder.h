// The checkpoint that seeds the fuzz targets of train/checkpoint.h, and one made of their input.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz_support.h"
#include "train/checkpoint.h"

namespace plimsoll {

inline constexpr int64_t kSeedStep = 3;

// Two small tensors: what the seed saves, and what the target loads into.
class SeedTensors {
  public:
    static constexpr size_t kBytes = 2 * 12 * sizeof(float);

    SeedTensors() {
        for (size_t i = 0; i < values_.size(); ++i) values_[i] = 0.25f * static_cast<float>(i) + 1.0f;
    }
    std::vector<CheckpointTensor> list() {
        return {{"parameters/wte.weight", Tensor(values_.data(), DType::kF32, {4, 3})},
                {"m/wte.weight", Tensor(values_.data() + 12, DType::kF32, {4, 3})}};
    }

  private:
    std::array<float, 24> values_{};
};

inline std::string checkpoint_folder(const std::string& run) {
    return fmt::format("{}/checkpoints/step_{:08}", run, kSeedStep);
}

inline void write_checkpoint(const std::string& run, std::string_view manifest, std::string_view tensors) {
    std::filesystem::create_directories(checkpoint_folder(run));
    write_input(checkpoint_folder(run) + "/MANIFEST", manifest);
    write_input(checkpoint_folder(run) + "/rank_0.bin", tensors);
}

// A manifest without its last line, the checksum.
inline std::string_view body_of(std::string_view manifest) {
    return manifest.substr(0, manifest.rfind("crc32c "));
}

inline std::string with_checksum(std::string_view body) {
    return fmt::format("{}crc32c {:08x}\n", body, crc32c(body.data(), body.size()));
}

}  // namespace plimsoll
