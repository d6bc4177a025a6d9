// The files in a checkpoint's folder: written chunk by chunk with checksums, read with every checksum verified.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "train/manifest.h"

namespace plimsoll {

// A file or folder descriptor that closes itself. Errors are Error (74) with path, byte and the system's reason.
class Descriptor {
  public:
    // `flags` as for open(2).
    Descriptor(std::string path, int flags);
    ~Descriptor();
    Descriptor(const Descriptor&) = delete;

    void write_all(const void* data, int64_t size, int64_t offset) const;
    // Throws Error (78) if the file ends before.
    void read_all(void* data, int64_t size, int64_t offset) const;
    // fsync. After an error the file's pages may be gone: never try again on the same file.
    void flush() const;

  private:
    std::string path_;
    int fd_;
};

// Flushes a folder's list of names: what was made, renamed or removed in it stays so after a power cut.
void flush_folder(const std::string& path);
// Writes a whole file and flushes it.
void write_flushed(const std::string& path, std::string_view text);

// Part of a logical tensor, in this process.
struct CheckpointPart {
    std::string name;    // "parameters/wte.weight", "m/wte.weight"
    Shape shape;         // of the whole tensor
    ElementRange range;  // flat elements of it that `data` holds
    Tensor data;         // (range.size()), contiguous, on the host
};

// Writes the parts one after the other into FOLDER/rank_R.bin, little-endian, and flushes it. Returns what a manifest
// says about it: one file, its tensors in the order of `parts`.
Manifest write_parts(const std::string& folder, int64_t rank, std::span<const CheckpointPart> parts,
                     int64_t chunk_bytes);

// The manifest of a checkpoint's folder, and the sizes of its files verified. Throws Error (78) naming file, what was
// found and what was wanted; (74) if the system does not let it be read.
Manifest read_manifest(const std::string& folder);

// Fills the parts from a checkpoint. Verifies the checksum of every chunk that has bytes of them and, of all chunks,
// each ranks-th from number `rank` on: ranks 0 .. ranks - 1 together verify every byte. With no parts and 0 of 1:
// verifies only.
// Throws Error (78) for a damaged chunk, naming file and byte, and for a tensor that is missing or of another dtype or
// shape. Parts may be half filled then.
void load_parts(const std::string& folder, const Manifest& manifest, std::span<const CheckpointPart> parts, int rank,
                int ranks);

}  // namespace plimsoll
