// The MANIFEST of a checkpoint: what lies where in its files, and where the run stood. Text from and to structs; no
// file is touched here.
//
// JSON, then a line with its CRC32C. Tensors are logical: whole, whatever rank held which part of them. Each lists the
// pieces that are stored, in order of their elements; together they are the tensor, without hole or overlap, and all
// pieces together are all bytes of the files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dist/communicator.h"
#include "kernels/tensor.h"

namespace plimsoll {

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
    std::string tokenizer_hash;  // of the data's tokenizer; empty = none, or saved before it was kept
    std::string extra = "{}";    // a JSON object: what else must be as it was, by the name of who keeps it
};

// Largest run of bytes with one checksum.
inline constexpr int64_t kChunkBytes = int64_t{64} << 20;

// Part of a tensor in a file.
struct StoredPiece {
    int64_t file = 0;                   // index into Manifest::files
    int64_t offset = 0;                 // bytes, in the file
    ElementRange range;                 // flat elements of the tensor
    std::vector<uint32_t> crc32c = {};  // of every chunk of Manifest::chunk_bytes; the last chunk is shorter
};

struct StoredTensor {
    std::string name;  // "parameters/wte.weight", "m/wte.weight"
    DType dtype = DType::kF32;
    Shape shape;
    std::vector<StoredPiece> pieces;  // by range.begin

    int64_t bytes() const { return shape.elements() * size_of(dtype); }
    int64_t bytes_of(const StoredPiece& piece) const { return piece.range.size() * size_of(dtype); }
};

struct StoredFile {
    int64_t bytes = 0;
    uint32_t crc32c = 0;
};

struct Manifest {
    TrainingState state;
    std::string build = {};  // the commit of the program that saved
    int64_t chunk_bytes = kChunkBytes;
    std::vector<StoredFile> files = {};      // by the rank that wrote them: data_file_name(index)
    std::vector<StoredTensor> tensors = {};  // by name

    // Index of a name, or -1.
    int find(std::string_view name) const;
};

// "rank_3.bin"
std::string data_file_name(int64_t rank);

// The text of a manifest. `manifest` may be wrong in any way: parse_manifest tells.
std::string manifest_text(const Manifest& manifest);
// The manifest of a text. Throws Error (78) naming `path` and what is wrong: cut off, damaged, not of this format,
// numbers that run over, names twice or out of order, elements stored never or twice, bytes that belong to nothing.
// Memory: at most some 30 times the text, whatever that says.
Manifest parse_manifest(std::string_view text, const std::string& path);

// What one rank wrote: a manifest of one file. As text, for rank 0.
std::string share_text(const Manifest& share);
// Adds the share of the next rank to those before it. Throws Error (78) for what is no share, Error (70) if a tensor
// has another dtype or shape than in an earlier one.
void add_share(Manifest& manifest, std::string_view share_text);

}  // namespace plimsoll
