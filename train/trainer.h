// A training run from configuration to last step.
#pragma once

#include <memory>

#include "data/loader.h"
#include "dist/gradient_sync.h"
#include "kernels/replay.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/feed.h"
#include "train/log.h"
#include "train/optimizer.h"
#include "train/probes.h"
#include "train/profile.h"
#include "train/run_directory.h"
#include "train/speed.h"

namespace plimsoll {

struct TrainOptions {
    Resume resume = Resume::kNever;
    bool overfit_batch = false;  // every step reads the first batch: the loss must go to 0
    StepRange profile;           // steps whose trace is written to profile.json
    std::string command;         // as typed, for run.json
};

// What one optimizer step did.
struct StepResult {
    double loss = 0;  // mean NLL + z-loss over the scored targets, nats
    double norm = 0;  // of the gradient, before clipping
    double lr = 0;
    int64_t tokens = 0;
};

class Trainer {
  public:
    // Loads data, plans and allocates, initializes. Throws Error (78) for what cannot be trained.
    // With several ranks every one of them makes a Trainer, with its communicator: they share the micro batches of a
    // step; rank 0 writes, evaluates and probes.
    Trainer(const RunConfig& config, const TrainOptions& options,
            Communicator world = Communicator(single_transport()));

    // Runs to the last step. Returns kOk, or kSavedOnSignal after a signal.
    ExitCode train();

    // One update from the samples after the last; visible for tests.
    StepResult train_step();
    int64_t step() const { return state_.step; }
    Transformer& model() { return model_; }
    Optimizer& optimizer() { return optimizer_; }

  private:
    // What the run says about itself: trainer_report.cpp.
    void print_settings();
    void write_run_json(const char* status);
    void report_step(const StepResult& result, double step_seconds);

    void check_memory();
    void check_initial_loss(const Evaluation& evaluation);
    void evaluate_and_keep(bool last);
    void evaluate_now();
    void probe(bool last);
    void profile_next_step(bool there_is_one);
    void wait_for_root();
    double elapsed() const;
    // trainer_checkpoint.cpp: what is on disk. Every rank calls these at the same point.
    // The parts of the checkpoint's tensors that this rank has to save, or wants loaded, in the given flat buffers
    // (parameters, then the optimizer's).
    enum class Use : uint8_t { kSave, kLoad };
    std::vector<CheckpointPart> held_parts(const std::vector<Tensor>& buffers, Use use) const;
    std::vector<Tensor> state_buffers() const;
    void resume_from_checkpoint();
    void keep_if_best();
    void report_save(const std::optional<SaveOutcome>& outcome);
    // Between steps: tells of a save that is done, starts one that is due.
    void save_if_due();
    // Starts a save, after the end of one that may be under way.
    void save();
    void finish_save();
    // Saves this step for certain. Throws Error (74) if that fails.
    void save_last();

    bool is_root() const { return world_.rank() == 0; }
    // Micro batches first .. first + count - 1 of the step: forward and backward; `last` = the step's last for this
    // rank.
    void compute_micro_batches(int64_t first, int64_t count);
    // The sums of the step over all ranks, or over the ranks this process stands for.
    LossSums compute_step();
    LossSums compute_as_virtual_ranks();

    RunConfig config_;
    TrainOptions options_;
    Communicator world_;
    int64_t max_steps_;
    RunDevice device_;
    Exec exec_;
    Precision precision_;
    Loader data_;
    std::unique_ptr<Loader> validation_;
    NetworkConfig network_;
    RunDirectory directory_;
    Log log_;
    Checkpointer checkpointer_;
    Transformer model_;
    Optimizer optimizer_;
    std::optional<GradientSync> sync_;  // with several ranks
    Arena virtual_sum_;                 // of the gradients, with virtual ranks
    bool stop_ = false;                 // agreed on by all ranks
    LocalCoreAttention core_;
    BatchFeed feed_;
    Replay first_micro_batch_, next_micro_batch_;
    SpeedOfLight speed_;
    std::unique_ptr<Profile> profile_;
    ProbedModel probed_;
    std::unique_ptr<Probes> probes_;
    TrainingState state_;
    bool finished_ = false;        // by an earlier call
    int64_t last_evaluated_ = -1;  // step
    int64_t last_probed_ = -1, last_saved_ = -1;
    double started_ = 0;        // clock when state_.seconds was last taken
    double train_seconds_ = 0;  // in steps, this process
    int64_t steps_here_ = 0;    // of this process
    double probe_seconds_ = 0, last_probe_seconds_ = 0;
};

}  // namespace plimsoll
