// A process's chunks of the network as the stage of a pipeline.
#pragma once

#include <memory>

#include "dist/pipeline/executor.h"
#include "train/feed.h"
#include "train/network_chunk.h"

namespace plimsoll {

class PipelineWork final : public StageWork {
  public:
    // All references must outlive it.
    PipelineWork(std::vector<std::unique_ptr<NetworkChunk>>& chunks, CoreAttention& core, const Loader& data,
                 int64_t rows, const Exec& exec);

    // The next run computes `count` micro batches, from this sample on; gradients leave for other ranks with the last
    // of them if `last` says so.
    void begin(int64_t first_sample, int64_t count, const Exec& exec);

    void forward(int chunk, int64_t micro_batch, int set) override;
    void backward(int chunk, int64_t micro_batch, int set) override;
    void backward_inputs(int chunk, int64_t micro_batch, int set) override;
    void backward_weights(int chunk, int64_t micro_batch, int set) override;
    Tensor stream_in(int chunk, int64_t micro_batch, int set) override;
    Tensor stream_out(int chunk, int64_t micro_batch, int set) override;
    Tensor stream_gradient(int chunk, int64_t micro_batch, int set) override;

  private:
    struct Set {
        std::unique_ptr<BatchFeed> feed;
        ModelInput input;
    };
    NetworkChunk& chunk_at(int chunk) { return *chunks_[static_cast<size_t>(chunk)]; }
    Set& set_at(int chunk, int set) { return sets_[static_cast<size_t>(chunk)][static_cast<size_t>(set)]; }
    void backward_part(int chunk, int64_t micro_batch, int set, BackwardPart part);

    std::vector<std::unique_ptr<NetworkChunk>>& chunks_;
    CoreAttention& core_;
    int64_t rows_, tokens_;
    Exec exec_;
    std::vector<std::vector<Set>> sets_;  // [chunk][set]
    int64_t first_sample_ = 0, count_ = 0;
};

}  // namespace plimsoll
