// The network as this process trains it: its part of the layers, their optimizer, their traffic with other ranks.
#pragma once

#include "kernels/replay.h"
#include "train/fault_hook.h"
#include "train/pipeline_work.h"

namespace plimsoll {

class Replica {
  public:
    // Plans, and allocates nothing. Throws Error (78) for what the ranks cannot share. All references must outlive it.
    Replica(const RunConfig& config, const NetworkConfig& network, Precision precision, RankGrid& grid,
            const Loader& data, const Exec& exec);
    void allocate(Device device);

    // Forward and backward of this replica's micro batches of the step that begins at `first_sample`. Sums of their
    // loss, not yet over ranks (without what other stages have: the head's where that is elsewhere).
    LossSums compute(int64_t first_sample, const Exec& exec);
    // Waits for the gradients of all ranks: afterwards every rank has the sums it updates with.
    void finish_gradients();
    // sqrt of the sum of squares of all gradients, of all ranks, in a fixed order.
    double gradient_norm(const Exec& exec);
    // One update; the parameters of other ranks arrive while the next forward runs, or until await_parameters().
    void update(double lr, double gradient_scale, int64_t step, const Exec& exec);
    void await_parameters();

    // The whole network, for evaluation and probes: the one trained, or in a pipeline a copy that the world's first
    // rank has, of the parameters as collect() found them. Null on the other ranks of a pipeline.
    Transformer* whole();
    // Brings whole() up to date. All ranks of a pipeline take part.
    void collect(const Exec& exec);

    // Data ranks of this stage whose parameters have another checksum than most have. Every rank of the stage takes
    // part.
    std::vector<int> ranks_that_differ(const Exec& exec);
    // Faults on demand: before a step, and once its gradients are complete.
    void inject_before(FaultHook& fault, int64_t step);
    void inject(FaultHook& fault, int64_t step);

    std::vector<std::unique_ptr<NetworkChunk>>& chunks() { return chunks_; }
    const std::vector<std::unique_ptr<NetworkChunk>>& chunks() const { return chunks_; }
    // Why a part of the step is not submitted as a CUDA graph though it should be; empty if all is.
    const std::string& why_no_graphs() const;
    // For evaluation and probes.
    CoreAttention& core() { return core_; }
    TrainingAttention& attention() { return attention_; }
    // Of the last step; null without plans for core attention.
    const CadBalance* balance() const { return attention_.balance(); }
    // What the last compute() took on this stage of a pipeline.
    const StageTimes& stage_times() const { return times_; }

  private:
    // Whether what exec's device does again and again is recorded.
    bool records(const Exec& exec) const { return config_.run.graphs && exec.device != Device::kCpu; }
    // The micro batches of a data rank, this process's or a virtual one.
    void compute_micro_batches(int64_t first_sample, int data_rank, const Exec& exec);
    void compute_in_turn(int64_t first_sample, int data_rank, const Exec& exec);
    // Micro batches of the step that a data rank has, for all ranks alike. Throws Error (78) if they cannot share them.
    static int64_t shared_micro_batches(const RunConfig& config, const RankGrid& grid);
    LossSums compute_as_virtual_ranks(int64_t first_sample, const Exec& exec);
    // The gradient of a tied table that two stages hold: the embedding's and the head's, on both.
    void sum_shared_table(const Exec& exec);

    const RunConfig& config_;
    const NetworkConfig& network_;
    RankGrid& grid_;
    int64_t micro_batches_;  // of a step, for this replica or virtual rank; each of lanes_ of the configuration
    int lanes_;
    std::vector<std::unique_ptr<NetworkChunk>> chunks_;
    LocalCoreAttention core_;
    TrainingAttention attention_;
    std::vector<Replay> updates_;         // [chunk]
    std::unique_ptr<Transformer> whole_;  // of a pipeline
    // Micro batches in turn, or a pipeline of them.
    std::vector<std::unique_ptr<BatchFeed>> feeds_;  // [lane]
    Replay first_micro_batch_, next_micro_batch_;
    std::unique_ptr<PipelineExecutor> executor_;
    std::unique_ptr<PipelineWork> work_;
    StageTimes times_;
    bool faulty_ = false;          // whether a fault has changed this step's gradients
    std::vector<double> squares_;  // of gradients, by virtual stage and data rank
};

}  // namespace plimsoll
