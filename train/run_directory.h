// The files of a run.
#pragma once

#include <map>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "train/config.h"

namespace plimsoll {

enum class Resume : uint8_t {
    kNever,  // refuse a directory that already holds a run
    kAuto,   // go on from the newest checkpoint if there is one
    kFresh,  // delete what is there and start again
};

// RUN/config.toml, run.json, tokenizer.json, metrics.jsonl, evals.jsonl, probes.jsonl, samples.jsonl, cad.jsonl,
// attention_maps.json, log.txt, checkpoints/.
class RunDirectory {
  public:
    // Makes the directory, or checks that the one there belongs to the same configuration, and tries to write, flush
    // and rename a file in it. Throws Error: 78 for a directory of another configuration (naming the keys that differ)
    // or one that exists without `resume`; 74 if it cannot be written.
    RunDirectory(const RunConfig& config, Resume resume);
    // For ranks above 0: the same directory, which they read and never write. `existed` is what rank 0 found.
    static RunDirectory follower(const RunConfig& config, bool existed);

    const std::string& path() const { return path_; }
    std::string file(const std::string& name) const { return path_ + "/" + name; }
    // Whether the directory held a run before.
    bool existed() const { return existed_; }
    // Writes a whole file, and before it the lines that append() still holds: what it says is true of them too. Throws
    // Error (74) for either.
    void write_json(const std::string& name, const nlohmann::json& value);
    nlohmann::json read_json(const std::string& name) const;  // null if absent
    // Appends one line of JSON. Where the disk does not take it, the line is held until it does: neither a full disk
    // nor a failing one stops a run for the sake of a line. Returns why lines are held, empty if none is.
    std::string append(const std::string& name, const nlohmann::json& line);
    // Flushes the JSON-lines files to disk, so that they outlast a power cut.
    void flush_lines() const;
    // Drops the lines of the JSON-lines files whose "step" is above `step` (and a half line at the end): after a resume
    // they are written again.
    void truncate_after(int64_t step);

  private:
    RunDirectory() = default;
    void write_held();

    std::string path_;
    std::map<std::string, std::string> held_;  // file name -> lines that the disk has not taken
    bool existed_ = false;
    bool writes_ = true;
};

}  // namespace plimsoll
