// The checkpoints of a run on disk, as one process sees and changes them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "train/checkpoint_file.h"

namespace plimsoll {

// Which checkpoints stay, beside the best one by validation loss.
struct KeepRule {
    int64_t newest = 2;
    int64_t every = 0;  // every so many steps one stays for good; 0 = none
};

// RUN/checkpoints/step_00001000/: rank_R.bin of every rank, and MANIFEST. A folder named step_N alone was whole when it
// got that name. step_N.tmp-GENERATION is being written, or its save was interrupted; step_N.removed is being deleted.
class CheckpointStore {
  public:
    explicit CheckpointStore(const std::string& run_directory);

    const std::string& root() const { return root_; }
    std::string folder(int64_t step) const;
    std::string unfinished(int64_t step, const std::string& generation) const;

    // Steps that have a folder, ascending.
    std::vector<int64_t> steps() const;
    // Removes what interrupted saves and removals left behind.
    void tidy() const;
    // Makes an unfinished folder whose data files are flushed a checkpoint: writes MANIFEST, flushes it and the folder,
    // calls `may_rename` (which throws to stop), renames, flushes the parent, reads the manifest again. Whatever had
    // the step's name is replaced. Throws Error: 74 if anything cannot be written, 70 if the manifest does not describe
    // every tensor once.
    void publish(int64_t step, const std::string& unfinished, const Manifest& manifest,
                 const std::function<void()>& may_rename) const;
    // Removes what `rule` does not keep, of the checkpoints before `step`, which has just been published. Those whose
    // manifest or sizes are wrong do not count as kept. Later steps are left: a run that fell back to an older
    // checkpoint found them damaged, and replaces them when it comes to their steps again. Safe to be killed at any
    // moment.
    void prune(int64_t step, int64_t best_step, const KeepRule& rule) const;

  private:
    void remove(int64_t step) const;

    std::string root_;
};

}  // namespace plimsoll
