// A hostile MANIFEST of a checkpoint (train/manifest.h): as it is, and with a checksum line that holds, which gets it
// past the first check.
#include "checkpoint_folder.h"
#include "fuzz_support.h"

using namespace plimsoll;

namespace {

// What a manifest that was taken promises to who reads the files.
void check_manifest(const Manifest& manifest) {
    require(manifest.state.step >= 0 && manifest.state.samples >= 0 && manifest.state.tokens >= 0, "a negative count");
    for (const StoredTensor& tensor : manifest.tensors) {
        int64_t elements = 0;
        for (const StoredPiece& piece : tensor.pieces) {
            require(piece.range.begin == elements && piece.range.size() >= 0, "a hole or an overlap");
            elements = piece.range.end;
            require(piece.file >= 0 && piece.file < static_cast<int64_t>(manifest.files.size()), "no such file");
            const int64_t held = manifest.files[static_cast<size_t>(piece.file)].bytes, size = tensor.bytes_of(piece);
            require(piece.offset >= 0 && size <= held && piece.offset <= held - size, "bytes beyond the file");
        }
        require(elements == tensor.shape.elements(), "elements that are stored nowhere");
    }
    require(manifest_text(parse_manifest(manifest_text(manifest), "again")) == manifest_text(manifest),
            "a manifest that reads back as another");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const TimedInput timed;
    const std::string_view input(reinterpret_cast<const char*>(data), size);
    for (const std::string& text : {std::string(input), with_checksum(body_of(input))})
        accepted(text.size(), [&] { check_manifest(parse_manifest(text, "MANIFEST")); });
    return 0;
}
