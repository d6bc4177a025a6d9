// make_seeds FOLDER: valid files, by plimsoll's own writers, in FOLDER/TARGET/. The fuzzers start from them.
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>

#include "checkpoint_folder.h"
#include "data/bpe.h"
#include "data/document_index.h"
#include "data/file.h"
#include "data/shard_writer.h"
#include "data/tokenizer.h"
#include "train/config.h"
#include "train/export/gguf_file.h"
#include "train/export/hf_layout.h"
#include "train/export/safetensors_file.h"

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
    // Few tokens, so that mutations hit what is around them.
    for (const SplitRule split : {SplitRule::kGpt2, SplitRule::kLlama3, SplitRule::kWhole}) {
        const BpeModel model{
            .tokens = {"a", "b", "\u0120", "ab", "\u0120ab", "<|endoftext|>", "  ab", "\u010a", "'", "s"},
            .merges = {{0, 1, 3}, {2, 3, 4}},
            .added = {{.text = "<|endoftext|>", .id = 5}, {.text = "  ab", .id = 6, .special = false}},
            .split = split,
            .ignore_merges = split == SplitRule::kLlama3,
            .bos_token = split == SplitRule::kLlama3 ? 5 : -1};
        save_tokenizer(*make_bpe_tokenizer(model, "seed"),
                       fmt::format("{}/bpe_{}.json", tokenizers, static_cast<int>(split)));
    }
}

void make_prompt_seeds(const std::string& root) {
    const std::string prompts = folder_of(root, "prompt");
    int number = 0;
    for (const std::string_view text :
         {"I'll go; they've 12345 \u00bd apples!!\n\n  caf\u00e9 \u6f22\u5b57", "<|endoftext|>a<|endoftext",
          " \t\r\n\u00a0\u3000x", "'S 'LL '\u017f", "\xff\xc3\xe2\x82 z", "\U0001f44d\U0001f3fd aaaaaaaaaaaaaaaa"})
        write_input(fmt::format("{}/{}", prompts, number++), text);
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

void make_export_seeds(const std::string& root) {
    const auto values = [](size_t i) { return std::vector<float>(i == 0 ? 6 : i == 1 ? 32 : 3, 0.5f); };
    GgufMetadata keys;
    keys.add("general.architecture", std::string("llama")), keys.add("llama.block_count", uint32_t{2});
    keys.add("a", true), keys.add("b", 1.5), keys.add("c", std::vector<std::string>{"x", "y"});
    keys.add("d", std::vector<bool>{true, false}), keys.add("e", std::vector<int32_t>{1, 2, 3});
    write_gguf(folder_of(root, "gguf") + "/small.gguf", keys,
               {{"w", {2, 3}, TensorType::kF32}, {"q", {1, 32}, TensorType::kQ8_0}, {"v", {3}, TensorType::kBF16}},
               values);
    write_safetensors(folder_of(root, "safetensors") + "/small.safetensors",
                      {{"w", {2, 3}, TensorType::kF32}, {"h", {32}, TensorType::kF16}, {"v", {3}, TensorType::kBF16}},
                      {{"format", "pt"}}, values);
    HfModel model;
    model.network.vocab = 64;
    for (const HfKind kind : {HfKind::kLlama, HfKind::kQwen3, HfKind::kGpt2}) {
        model.kind = kind;
        write_input(fmt::format("{}/{}.json", folder_of(root, "hf_config"), static_cast<int>(kind)),
                    hf_config(model).dump());
    }
}

}  // namespace

int main(int count, char** arguments) {
    require(count == 2, "usage: make_seeds FOLDER");
    const std::string root = arguments[1];
    make_data_seeds(root);
    make_prompt_seeds(root);
    make_checkpoint_seeds(root);
    make_export_seeds(root);
    write_input(folder_of(root, "config") + "/resolved.toml", resolved_toml(RunConfig{}));
}
