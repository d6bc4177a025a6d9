#include "train/checkpoint_store.h"

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "kernels/error.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

// The step of a folder's name, "step_00001000"; -1 for any other name.
int64_t step_of(std::string_view name) {
    if (!name.starts_with("step_")) return -1;
    int64_t step = -1;
    const char* end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data() + 5, end, step);
    return error == std::errc{} && stop == end ? step : -1;
}

bool is_left_behind(std::string_view name) {
    return name.starts_with("step_") && (name.find(".tmp") != name.npos || name.ends_with(".removed"));
}

void rename_folder(const std::string& from, const std::string& to) {
    std::error_code error;
    fs::rename(from, to, error);
    if (error) fail_io("cannot rename '{}' to '{}': {}", from, to, error.message());
}

}  // namespace

CheckpointStore::CheckpointStore(const std::string& run_directory) : root_(run_directory + "/checkpoints") {}

std::string CheckpointStore::folder(int64_t step) const {
    return fmt::format("{}/step_{:08}", root_, step);
}

std::string CheckpointStore::unfinished(int64_t step, const std::string& generation) const {
    return fmt::format("{}.tmp-{}", folder(step), generation);
}

std::vector<int64_t> CheckpointStore::steps() const {
    std::vector<int64_t> found;
    if (!fs::is_directory(root_)) return found;
    for (const auto& entry : fs::directory_iterator(root_))
        if (const int64_t step = step_of(entry.path().filename().string()); step >= 0) found.push_back(step);
    std::sort(found.begin(), found.end());
    return found;
}

void CheckpointStore::tidy() const {
    if (!fs::is_directory(root_)) return;
    std::error_code ignored;
    for (const auto& entry : fs::directory_iterator(root_))
        if (is_left_behind(entry.path().filename().string())) fs::remove_all(entry.path(), ignored);
}

void CheckpointStore::publish(int64_t step, const std::string& unfinished, const Manifest& manifest,
                              const std::function<void()>& may_rename) const {
    const std::string text = manifest_text(manifest), path = unfinished + "/MANIFEST";
    try {
        parse_manifest(text, path);
    } catch (const Error& error) {
        throw Error(ExitCode::kInternal, fmt::format("the parts that ranks saved are no checkpoint: {}", error.what()));
    }
    write_flushed(path, text);
    flush_folder(unfinished);
    may_rename();
    const std::string finished = folder(step), old = finished + ".removed";
    std::error_code ignored;
    if (fs::exists(finished)) {
        fs::remove_all(old, ignored);
        rename_folder(finished, old);
    }
    rename_folder(unfinished, finished);
    flush_folder(root_);
    read_manifest(finished);
    fs::remove_all(old, ignored);
}

// Renamed before anything in it is deleted: a folder that lacks files never has a checkpoint's name.
void CheckpointStore::remove(int64_t step) const {
    const std::string doomed = folder(step) + ".removed";
    std::error_code ignored;
    fs::remove_all(doomed, ignored);
    rename_folder(folder(step), doomed);
    flush_folder(root_);
    fs::remove_all(doomed, ignored);
}

void CheckpointStore::prune(int64_t step, int64_t best_step, const KeepRule& rule) const {
    int64_t kept = 1;
    const std::vector<int64_t> all = steps();
    for (size_t i = all.size(); i-- > 0;) {
        if (all[i] >= step) continue;
        const bool major = rule.every > 0 && all[i] % rule.every == 0;
        if (kept >= rule.newest) {
            if (!major && all[i] != best_step) remove(all[i]);
            continue;
        }
        try {
            read_manifest(folder(all[i]));
            ++kept;
        } catch (const Error&) {  // stays, for whoever wants to look at it, until enough whole ones are newer
        }
    }
}

}  // namespace plimsoll
