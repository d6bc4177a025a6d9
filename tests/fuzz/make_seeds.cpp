// make_seeds FOLDER: valid files, by plimsoll's own writers, in FOLDER/TARGET/. The fuzzers start from them.
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "checkpoint_folder.h"
#include "data/document_index.h"
#include "data/file.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "train/config.h"

using namespace plimsoll;

namespace {

std::string folder_of(const std::string& root, const char* target) {
    const std::string folder = root + "/" + target;
    std::filesystem::create_directories(folder);
    return folder;
}

void make_data_seeds(const std::string& root) {
    std::vector<int32_t> ids(64);
    std::iota(ids.begin(), ids.end(), 0);
    const std::string shards = folder_of(root, "shard");
    write_token_shard(shards + "/uint16.bin", ids, 50257);
    write_token_shard(shards + "/uint32.bin", ids, 128256);
    write_token_shard(shards + "/empty.bin", {}, 50257);
    const std::string indices = folder_of(root, "document_index");
    const std::vector<int64_t> starts = {0, 10, 11, 63};
    for (const size_t count : {size_t{0}, size_t{1}, starts.size()}) {
        const std::string shard = fmt::format("{}/{}.bin", indices, count);
        write_document_index(shard, 64, std::span(starts).first(count));
    }
    const std::string tokenizers = folder_of(root, "tokenizer");
    save_tokenizer(*make_char_tokenizer("To be, or not\n", true), tokenizers + "/char.json");
    save_tokenizer(*make_char_tokenizer("ab", false), tokenizers + "/two.json");
    save_tokenizer(*make_byte_tokenizer(true), tokenizers + "/byte.json");
}

void make_checkpoint_seeds(const std::string& root) {
    const std::string manifests = folder_of(root, "manifest"), checkpoints = folder_of(root, "checkpoint");
    SeedTensors tensors;
    Manifest written = write_parts(fuzz_folder(), 0, tensors.parts(), kChunkBytes);
    written.state = {.step = 3,
                     .samples = 24,
                     .tokens = 1536,
                     .seconds = 0.5,
                     .best_loss = 2.25,
                     .best_step = 2,
                     .config = "[run]\nname = \"seed\"\n",
                     .data_hash = "0123456789abcdef"};
    const std::string manifest = manifest_text(written);
    const std::string data = read_file(fuzz_folder() + "/" + data_file_name(0), "seed");
    // Also without blanks: half the length, so that more mutations hit a value.
    const std::string compact = with_checksum(nlohmann::json::parse(body_of(manifest)).dump() + "\n");
    for (const std::string& text : {manifest, compact}) {
        const std::string name = fmt::format("{}_bytes", text.size());
        write_input(manifests + "/" + name, text);
        write_input(checkpoints + "/" + name, text + '\0' + data);
    }
    std::filesystem::remove_all(fuzz_folder());
}

}  // namespace

int main(int count, char** arguments) {
    require(count == 2, "usage: make_seeds FOLDER");
    const std::string root = arguments[1];
    make_data_seeds(root);
    make_checkpoint_seeds(root);
    write_input(folder_of(root, "config") + "/resolved.toml", resolved_toml(RunConfig{}));
}
