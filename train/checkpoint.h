// Checkpoints: what a run needs to go on, bit for bit, on any number of ranks, and to survive a crash at any moment.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "train/checkpoint_store.h"
#include "train/run_lock.h"

namespace plimsoll {

struct CheckpointOptions {
    KeepRule keep = {};
    bool asynchronous = true;  // write beside training, from a copy in host memory
    int64_t chunk_bytes = kChunkBytes;
    std::chrono::nanoseconds visible_within = std::chrono::seconds(30);  // what rank 0 sees, to other nodes
};

// How a save ended.
struct SaveOutcome {
    int64_t step = 0;
    bool saved = false;
    std::string text;    // the checkpoint's folder and, if old ones could not be removed, why; or why there is none
    double seconds = 0;  // since start()
};

// The checkpoints of a run, as all its ranks together save and load them. Every public function is called by every rank
// at the same point; with one rank nothing is communicated.
//
// A save: each rank writes its parts and flushes them; if any could not, all give up and training goes on. Rank 0
// writes the manifest of all, flushes, checks that the run is still its own (RunLock), and renames. Only then the
// checkpoint exists; older ones are pruned after it.
class Checkpointer {
  public:
    // `world` must live as long.
    Checkpointer(const std::string& run_directory, const CheckpointOptions& options, Communicator& world);
    // Waits for what is being written and leaves it unfinished.
    ~Checkpointer() = default;

    // Takes the run's lock and removes what interrupted saves left. Before anything else.
    void take_over();

    // Starts a save of this rank's parts; the state is rank 0's. Returns with the parts copied, or written if saves are
    // not asynchronous or the copy would not fit into memory. Nothing else may be under way.
    void start(const TrainingState& state, std::vector<CheckpointPart> parts);
    // The outcome of a save once every rank has written, nothing before. Once per start(), with finish().
    // A save that failed leaves no trace but the outcome. Throws Error on every rank: (75) if another process took the
    // run over, and (70) for parts that are not every tensor once.
    std::optional<SaveOutcome> poll();
    // The same, waiting for it; nothing if no save is under way.
    std::optional<SaveOutcome> finish();

    // Fills the parts from the newest whole checkpoint, every byte of which some rank verified; returns its state,
    // nothing if there is no checkpoint at all. On rank 0 `report` is told of each that was passed over, and why.
    // Throws Error on every rank: (78) if there are checkpoints but none is whole, (74) if a rank cannot see within
    // `visible_within` what rank 0 sees.
    std::optional<TrainingState> load_newest(const std::vector<CheckpointPart>& parts,
                                             const std::function<void(const std::string&)>& report);

    const CheckpointStore& store() const { return store_; }
    // Whether no other process has taken the run over, as rank 0 knows; true on the others.
    bool is_owner() const { return !lock_ || lock_->is_untouched(); }
    // The same as an Error (75) that says who has.
    void check_owner() const {
        if (!is_owner()) lock_->check_held();
    }
    // This process's, as the lock has it: after take_over().
    const std::string& generation() const { return generation_; }
    // Step of the newest checkpoint this process saved or loaded; -1 = none.
    int64_t newest_step() const { return newest_step_; }
    // Saves that failed, in this process.
    int64_t failures() const { return failures_; }

  private:
    struct Failure {
        ExitCode code;
        std::string message;
    };
    // A save under way.
    struct Flight {
        TrainingState state;
        std::string folder;  // unfinished
        std::vector<CheckpointPart> parts;
        double started = 0;  // clock
        // Written by the writer, read once it is done.
        std::string share;
        std::optional<Failure> failure;
        std::atomic<bool> done = false;
        std::jthread writer = {};
    };

    static std::optional<Failure> failure_of(const std::function<void()>& work);
    // The gravest failure of any rank, the same on all of them.
    std::optional<Failure> agree(const std::optional<Failure>& own);
    void throw_agreed(const std::optional<Failure>& own);
    bool copy_parts(std::vector<CheckpointPart>& parts);
    void write(Flight& flight) const;
    bool all_done();
    SaveOutcome publish();
    std::vector<std::string> gather_shares(const std::string& own);
    // What rank 0 wants loaded next.
    struct Candidate {
        int64_t step;  // -1: there is none
        int64_t manifest_crc;
    };
    Candidate next_candidate(std::vector<int64_t>& steps, const std::function<void(const std::string&)>& report) const;
    Manifest wait_for_manifest(const Candidate& candidate) const;

    CheckpointStore store_;
    CheckpointOptions options_;
    Communicator& world_;
    std::optional<RunLock> lock_;  // of rank 0
    std::string generation_;
    std::unique_ptr<std::byte[]> copy_;  // of the parts of the save under way
    int64_t copy_bytes_ = 0;
    std::unique_ptr<Flight> flight_;  // after copy_: the writer ends before its bytes do
    int64_t newest_step_ = -1;
    int64_t failures_ = 0;
};

}  // namespace plimsoll
