// What is in a checkpoint, for people and scripts: `plimsoll inspect`.
#pragma once

#include <functional>
#include <string>

#include "train/manifest.h"

namespace plimsoll {

// CRC32C of a logical tensor's bytes: the same however it is cut into pieces. From the manifest alone.
uint32_t tensor_hash(const StoredTensor& tensor, int64_t chunk_bytes);
// Of all tensors with their names, dtypes and shapes, FNV-1a (64 bit).
uint64_t tensors_hash(const Manifest& manifest);

enum class Shown : uint8_t {
    kAll,     // state, layout, tensors and hashes
    kHashes,  // a line per tensor and one in total, equal for equal tensors whatever ranks saved them
};

// Writes what a checkpoint's folder holds, and verifies every byte; of a run's folder a line per checkpoint.
// Throws Error (78) for a damaged one, naming file and byte (a run's: after the last line), and for a folder that is
// neither.
void inspect_checkpoint(const std::string& path, Shown shown, const std::function<void(const std::string&)>& write);

}  // namespace plimsoll
