#include "data/shard_tokenizer.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "data/file.h"
#include "data/json_value.h"
#include "kernels/error.h"
#include "kernels/random.h"

namespace plimsoll {
namespace {

// That the manifest, if there is one that names a tokenizer, was made with this file.
void check_manifest(const std::filesystem::path& folder, const std::string& tokenizer_file) {
    const std::string path = (folder / kManifestFile).string();
    if (!std::filesystem::exists(path)) return;
    const auto manifest = nlohmann::json::parse(read_file(path, "manifest"), nullptr, false);
    const nlohmann::json::json_pointer place("/tokenizer/fnv1a64");
    if (!manifest.is_object() || !manifest.contains(place)) return;  // of another program
    const auto& wanted = manifest[place];
    const std::string seen = fmt::format("{:016x}", hash_name(read_file(tokenizer_file, "tokenizer file")));
    if (wanted == seen) return;
    fail_input(
        "tokenizer file '{}' has hash {}, but '{}' says that the shards were made with {}; put that tokenizer back, or "
        "prepare the shards again",
        tokenizer_file, seen, path, shown(wanted));
}

}  // namespace

FoundTokenizer same_tokenizer(const FoundTokenizer& first, const FoundTokenizer& second) {
    if (first.tokenizer == nullptr) return second;
    if (second.tokenizer == nullptr) return first;
    const std::string a = first.tokenizer->hash(), b = second.tokenizer->hash();
    if (a != b) {
        fail_input(
            "tokenizer {} of '{}' ({}, {} ids) is not {} of '{}' ({}, {} ids); all data of a run need one tokenizer: "
            "prepare them with the same",
            a, first.place, first.tokenizer->kind(), first.tokenizer->vocab_size(), b, second.place,
            second.tokenizer->kind(), second.tokenizer->vocab_size());
    }
    return first;
}

FoundTokenizer find_shard_tokenizer(const std::string& pattern) {
    std::set<std::filesystem::path> folders;
    for (const std::string& path : match_files(pattern)) folders.insert(std::filesystem::path(path).parent_path());
    FoundTokenizer found;
    for (const auto& folder : folders) {
        const std::string path = (folder / kTokenizerFile).string();
        if (!std::filesystem::exists(path)) continue;
        check_manifest(folder, path);
        found = same_tokenizer(found, {load_tokenizer(path), path});
    }
    return found;
}

}  // namespace plimsoll
