// A process's chunks of the network as the stage of a pipeline.
#pragma once

#include <memory>

#include "dist/pipeline/executor.h"
#include "train/feed.h"
#include "train/network_chunk.h"
#include "train/training_attention.h"

namespace plimsoll {

class PipelineWork final : public StageWork {
  public:
    // All references must outlive it.
    PipelineWork(std::vector<std::unique_ptr<NetworkChunk>>& chunks, TrainingAttention& attention,
                 const RankPlace& place, const Loader& data, int64_t rows, const Exec& exec);

    // The next run computes `count` micro batches of this data rank, from this sample on: each of as many rows as the
    // model has lanes. Gradients leave for other ranks with the last of them.
    void begin(int data_rank, int64_t first_sample, int64_t count, const Exec& exec);

    void forward(int chunk, int64_t micro_batch, int set) override;
    void backward(int chunk, int64_t micro_batch, int set) override;
    void backward_inputs(int chunk, int64_t micro_batch, int set) override;
    void backward_weights(int chunk, int64_t micro_batch, int set) override;
    int parts() const override { return lanes_; }
    Tensor stream_in(int chunk, int set, int part) override;
    Tensor stream_out(int chunk, int set, int part) override;
    Tensor stream_gradient(int chunk, int set, int part) override;
    void serve_forward(int64_t tick) override { attention_.serve_tick(Pass::kForward, tick, exec_); }
    void serve_backward(int64_t tick) override { attention_.serve_tick(Pass::kBackward, tick, exec_); }

  private:
    // A micro batch under way: by lane.
    struct Set {
        std::vector<std::unique_ptr<BatchFeed>> feeds;
        std::vector<ModelInput> inputs;
    };
    NetworkChunk& chunk_at(int chunk) { return *chunks_[static_cast<size_t>(chunk)]; }
    Set& set_at(int chunk, int set) { return sets_[static_cast<size_t>(chunk)][static_cast<size_t>(set)]; }
    void backward_part(int chunk, int64_t micro_batch, int set, BackwardPart part);

    std::vector<std::unique_ptr<NetworkChunk>>& chunks_;
    TrainingAttention& attention_;
    int first_stage_;  // chunk c computes stage first_stage_ + c of the attention's plans
    int lanes_;
    int64_t rows_, tokens_;
    Exec exec_;
    std::vector<std::vector<Set>> sets_;  // [chunk][set]
    int data_rank_ = 0;
    int64_t first_sample_ = 0, count_ = 0;
};

}  // namespace plimsoll
