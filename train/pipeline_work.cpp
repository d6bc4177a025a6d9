#include "train/pipeline_work.h"

namespace plimsoll {

PipelineWork::PipelineWork(std::vector<std::unique_ptr<NetworkChunk>>& chunks, TrainingAttention& attention,
                           const RankPlace& place, const Loader& data, int64_t rows, const Exec& exec)
    : chunks_(chunks),
      attention_(attention),
      first_stage_(place.stage),
      lanes_(chunks.front()->model.plan().lanes),
      rows_(rows),
      tokens_(rows * data.tokens_per_row()),
      exec_(exec) {
    for (const auto& chunk : chunks_) {
        std::vector<Set>& sets = sets_.emplace_back();
        for (int set = 0; set < chunk->model.plan().activation_sets / lanes_; ++set) {
            Set& here = sets.emplace_back();
            here.inputs.resize(static_cast<size_t>(lanes_));
            for (int lane = 0; lane < lanes_; ++lane)
                here.feeds.push_back(std::make_unique<BatchFeed>(data, rows, exec));
        }
    }
}

void PipelineWork::begin(int data_rank, int64_t first_sample, int64_t count, const Exec& exec) {
    data_rank_ = data_rank, first_sample_ = first_sample, count_ = count, exec_ = exec;
}

void PipelineWork::forward(int chunk, int64_t micro_batch, int set) {
    Set& here = set_at(chunk, set);
    NetworkChunk& part = chunk_at(chunk);
    for (int lane = 0; lane < lanes_; ++lane) {
        ModelInput& input = here.inputs[static_cast<size_t>(lane)];
        input =
            here.feeds[static_cast<size_t>(lane)]->next(first_sample_ + (micro_batch * lanes_ + lane) * rows_, rows_);
        input.set = set * lanes_ + lane;
    }
    attention_.enter(Pass::kForward, data_rank_, first_stage_ + chunk, micro_batch);
    part.model.forward(
        attention_.core(), here.inputs, micro_batch == 0 ? Write::kOverwrite : Write::kAccumulate,
        [&](int64_t layer) { part.await(layer); }, exec_);
    attention_.serve(Pass::kForward, part.layers(), exec_);
}

void PipelineWork::backward_part(int chunk, int64_t micro_batch, int set, BackwardPart part) {
    NetworkChunk& here = chunk_at(chunk);
    const bool last = micro_batch == count_ - 1;
    if (part != BackwardPart::kWeights) {
        attention_.enter(Pass::kBackward, data_rank_, first_stage_ + chunk, micro_batch);
        attention_.serve(Pass::kBackward, here.layers(), exec_);
    }
    here.model.backward(
        attention_.core(), set_at(chunk, set).inputs, micro_batch == 0 ? Write::kOverwrite : Write::kAccumulate, part,
        [&](int64_t layer) {
            if (last) here.on_ready(layer);
        },
        exec_);
}

void PipelineWork::backward(int chunk, int64_t micro_batch, int set) {
    backward_part(chunk, micro_batch, set, BackwardPart::kAll);
}

void PipelineWork::backward_inputs(int chunk, int64_t micro_batch, int set) {
    backward_part(chunk, micro_batch, set, BackwardPart::kInputs);
}

void PipelineWork::backward_weights(int chunk, int64_t micro_batch, int set) {
    backward_part(chunk, micro_batch, set, BackwardPart::kWeights);
}

Tensor PipelineWork::stream_in(int chunk, int set, int part) {
    return chunk_at(chunk).model.stream_in(tokens_, set * lanes_ + part);
}

Tensor PipelineWork::stream_out(int chunk, int set, int part) {
    return chunk_at(chunk).model.stream_out(tokens_, set * lanes_ + part);
}

Tensor PipelineWork::stream_gradient(int chunk, int set, int part) {
    return chunk_at(chunk).model.stream_gradient(tokens_, set * lanes_ + part);
}

}  // namespace plimsoll
