#include "train/pipeline_work.h"

namespace plimsoll {

PipelineWork::PipelineWork(std::vector<std::unique_ptr<NetworkChunk>>& chunks, CoreAttention& core, const Loader& data,
                           int64_t rows, const Exec& exec)
    : chunks_(chunks), core_(core), rows_(rows), tokens_(rows * data.tokens_per_row()), exec_(exec) {
    for (const auto& chunk : chunks_) {
        std::vector<Set>& sets = sets_.emplace_back();
        for (int set = 0; set < chunk->model.plan().activation_sets; ++set)
            sets.push_back({std::make_unique<BatchFeed>(data, rows, exec), {}});
    }
}

void PipelineWork::begin(int64_t first_sample, int64_t count, const Exec& exec) {
    first_sample_ = first_sample, count_ = count, exec_ = exec;
}

void PipelineWork::forward(int chunk, int64_t micro_batch, int set) {
    Set& here = set_at(chunk, set);
    NetworkChunk& part = chunk_at(chunk);
    here.input = here.feed->next(first_sample_ + micro_batch * rows_, rows_);
    here.input.set = set;
    part.model.forward(
        core_, {&here.input, 1}, micro_batch == 0 ? Write::kOverwrite : Write::kAccumulate,
        [&](int64_t layer) { part.await(layer); }, exec_);
}

void PipelineWork::backward_part(int chunk, int64_t micro_batch, int set, BackwardPart part) {
    NetworkChunk& here = chunk_at(chunk);
    const bool last = micro_batch == count_ - 1;
    here.model.backward(
        core_, {&set_at(chunk, set).input, 1}, micro_batch == 0 ? Write::kOverwrite : Write::kAccumulate, part,
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

Tensor PipelineWork::stream_in(int chunk, int64_t, int set) {
    return chunk_at(chunk).model.stream_in(tokens_, set);
}

Tensor PipelineWork::stream_out(int chunk, int64_t, int set) {
    return chunk_at(chunk).model.stream_out(tokens_, set);
}

Tensor PipelineWork::stream_gradient(int chunk, int64_t, int set) {
    return chunk_at(chunk).model.stream_gradient(tokens_, set);
}

}  // namespace plimsoll
