// Checkpoints: what a run needs to go on, bit for bit, and to survive a crash at any moment while saving.
//
// RUN/checkpoints/step_00001000/ holds rank_0.bin (tensors one after the other, row-major, little-endian) and MANIFEST
// (JSON: tensors by name, dtype, shape and offset; CRC32C of every chunk of at most 64 MiB; the run's state; then a
// line with the CRC32C of the JSON). Everything is written into step_N.tmp, flushed to disk, and renamed last: a folder
// without ".tmp" is complete.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace plimsoll {

struct CheckpointTensor {
    std::string name;  // "parameters/wte.weight", "m/wte.weight"
    Tensor data;       // contiguous
};

// Where a run stands.
struct TrainingState {
    int64_t step = 0;     // updates done
    int64_t samples = 0;  // global sample index of the next training row
    int64_t tokens = 0;
    double seconds = 0;     // of training, over all resumes
    double best_loss = -1;  // lowest validation loss so far; -1 = none
    int64_t best_step = -1;
    std::string config;  // the resolved configuration (TOML)
    std::string data_hash;
};

class Checkpointer {
  public:
    explicit Checkpointer(std::string run_directory);

    // Saves, then removes all but the `keep` newest checkpoints up to this step and the best one. A whole checkpoint of
    // the same step is left as it is, a damaged one replaced. Returns the checkpoint's folder.
    // Throws Error (74) and leaves earlier checkpoints alone if anything cannot be written.
    std::string save(const TrainingState& state, const std::vector<CheckpointTensor>& tensors, int64_t keep) const;
    // Steps that have a complete folder, ascending. Removes folders an interrupted save left behind.
    std::vector<int64_t> steps() const;
    // The state and manifest of a step, verified. Throws Error (78) naming file, place and what was found.
    TrainingState read_state(int64_t step) const;
    // Fills every tensor, verifying checksums. Throws Error (78) for a missing, truncated, damaged or unlike tensor.
    void load(int64_t step, const std::vector<CheckpointTensor>& tensors) const;

  private:
    std::string folder(int64_t step) const;
    struct Manifest;
    Manifest read_manifest(int64_t step) const;
    bool is_whole(int64_t step) const;
    void prune(const TrainingState& state, int64_t keep) const;

    std::string root_;
};

// CRC32C (Castagnoli polynomial, RFC 3720) of bytes, continued from `crc`.
uint32_t crc32c(const void* data, size_t size, uint32_t crc = 0);

}  // namespace plimsoll
