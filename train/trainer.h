// A training run from configuration to last step.
#pragma once

#include <memory>

#include "data/loader.h"
#include "train/checkpoint.h"
#include "train/device.h"
#include "train/evaluate.h"
#include "train/fault_hook.h"
#include "train/health.h"
#include "train/log.h"
#include "train/probes.h"
#include "train/profile.h"
#include "train/rank_table.h"
#include "train/replica.h"
#include "train/run_directory.h"
#include "train/run_history.h"
#include "train/speed.h"
#include "train/time_limit.h"
#include "train/training_samples.h"

namespace plimsoll {

struct TrainOptions {
    Resume resume = Resume::kNever;
    bool overfit_batch = false;  // every step reads the first batch: the loss must go to 0
    StepRange profile;           // steps whose trace is written to profile.json
    std::string command;         // as typed, for run.json
    std::string parent = {};     // directory of the run that the ledger compares this one with; empty = the one before
    std::optional<int> local_rank = {};  // among the ranks of this machine; else counted
    // Learns of the start; who runs the Trainer tells it of the end (train_run).
    std::shared_ptr<RunHistory> history = std::make_shared<RunHistory>();
};

// Why a run saves and ends before its last step; of several reasons, also of several ranks, the first counts.
enum class Stop : uint8_t { kNo, kFenced, kTerminated, kUser1, kTimeLimit };
inline constexpr size_t kStops = 5;

// What one optimizer step did.
struct StepResult {
    double loss = 0;           // mean NLL + z-loss over the scored targets, nats
    double decorrelation = 0;  // what loss.bos_decorrelation weighs, beside `loss`
    double norm = 0;           // of the gradient, before clipping
    double lr = 0;
    int64_t tokens = 0;
    Verdict verdict = Verdict::kUpdate;
    RankGrid::Traffic traffic;  // of this rank
};

class Trainer {
  public:
    // Loads data, plans and allocates, initializes. Throws Error (78) for what cannot be trained.
    // With several ranks every one of them makes a Trainer, with its communicator: they share the micro batches of a
    // step; rank 0 writes, evaluates and probes.
    Trainer(const RunConfig& config, const TrainOptions& options,
            Communicator world = Communicator(single_transport()));

    // Runs to the last step. Returns kOk, or kSavedOnSignal after a signal or before the time limit.
    ExitCode train();

    // One update from the samples after the last; visible for tests.
    StepResult train_step();
    int64_t step() const { return state_.step; }
    // The first of this rank's ranges of layers, its parameters up to date.
    Transformer& model();

  private:
    // What the run says about itself: trainer_report.cpp.
    void print_settings();
    void write_run_json(const char* status);
    void report_step(const StepResult& result, double step_seconds);

    void check_memory();
    void check_initial_loss(const Evaluation& evaluation);
    // What is due after this many steps: all ranks come to the same answer.
    bool evaluation_is_due(bool last) const;
    bool probe_is_due(bool last) const;
    bool sample_is_due(bool last) const;
    void evaluate_and_probe(bool last);
    void evaluate_now();
    void sample_now();
    void probe(bool last);
    void profile_next_step(bool there_is_one);
    void wait_for_root();
    // Compares what ranks hold twice, if it is time. Throws Error (70) naming those that differ.
    void check_replicas();
    void check_plans();
    // Back to the newest checkpoint, on with the data after the bad steps. Throws Error (70) without one.
    void roll_back();
    [[noreturn]] void stop_training(const StepResult& result);
    // What this rank alone would do; all ranks do what any of them would.
    Stop wanted_stop() const;
    ExitCode stop_early(Stop why);
    // Throws Error (75), on every rank, if another process has taken the run over.
    void check_owner() const;
    double elapsed() const;
    // trainer_checkpoint.cpp: what is on disk. Every rank calls these at the same point.
    // The parts of the checkpoint's tensors that this rank has to save, or wants loaded, in copies of state_buffers().
    enum class Use : uint8_t { kSave, kLoad };
    std::vector<CheckpointPart> held_parts(const std::vector<Tensor>& buffers, Use use) const;
    // Of each chunk the parameters, then the optimizer's.
    std::vector<Tensor> state_buffers() const;
    void resume_from_checkpoint();
    // Parameters, optimizer state and where the run stood, from the newest checkpoint. Returns whether there is one.
    bool load_newest();
    void keep_if_best();
    void report_save(const std::optional<SaveOutcome>& outcome);
    // Between steps: tells of a save that is done, starts one that is due.
    void save_if_due();
    // Starts a save, after the end of one that may be under way.
    void save();
    void finish_save();
    // Saves this step for certain. Throws Error (74) if that fails.
    void save_last();

    bool is_root() const { return grid_.is_root(); }
    // Forward and backward of the step: its loss over all ranks. They also agree whether the run stops.
    LossSums compute_step();

    RunConfig config_;
    TrainOptions options_;
    RankGrid grid_;
    int64_t max_steps_;
    int local_rank_;
    RunDevice device_;
    Exec exec_;
    std::vector<RankInfo> ranks_;
    Precision precision_;
    Loader data_;
    std::unique_ptr<Loader> validation_;
    NetworkConfig network_;
    RunDirectory directory_;
    Log log_;
    Checkpointer checkpointer_;
    Replica replica_;
    Health health_{config_.health};
    FaultHook fault_ = FaultHook::from_environment();
    Stragglers stragglers_;
    std::string straggler_;                // of the last steps, if there is one
    TimeLimit limit_;                      // of this rank's clock
    Stop stop_ = Stop::kNo;                // agreed on by all ranks
    RankGrid::Traffic traffic_;            // of the steps of this process
    CommStats attention_before_;           // what core attention had sent before this step
    std::vector<StageTimes> stage_times_;  // of the last step, by rank of a pipeline
    SpeedOfLight speed_;
    std::unique_ptr<Profile> profile_;
    std::optional<ProbedModel> probed_;  // where the whole network is
    std::unique_ptr<Probes> probes_;
    std::unique_ptr<TrainingSamples> samples_;
    TrainingState state_;
    bool finished_ = false;        // by an earlier call
    bool told_of_graphs_ = false;  // that there are none
    int64_t last_evaluated_ = -1;  // step
    int64_t last_probed_ = -1, last_sampled_ = -1, last_saved_ = -1;
    double started_ = 0;        // clock when state_.seconds was last taken
    double train_seconds_ = 0;  // in steps, this process
    double slowest_step_ = 0;   // seconds, of this process
    int64_t steps_here_ = 0;    // of this process
    double probe_seconds_ = 0, last_probe_seconds_ = 0;
};

}  // namespace plimsoll
