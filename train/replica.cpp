#include "train/replica.h"

#include <cmath>
#include <cstring>

#include "kernels/global_norm.h"
#include "kernels/residual.h"
#include "kernels/trace.h"

namespace plimsoll {
namespace {

ShardLayout layout_of(const ParameterTable& table, int ranks) {
    std::vector<LayerPart> parts;
    for (const Parameter& p : table.entries()) parts.push_back({{p.offset, p.offset + p.shape.elements()}, p.layer});
    return ShardLayout(parts, table.buffer_elements(), ranks);
}

// Only ranks of their own have shards of their own: virtual ones share one memory.
std::vector<ElementRange> updated_by(const ShardLayout& layout, const ParallelSection& parallel, int data_rank) {
    if (parallel.zero1 && parallel.virtual_ranks == 1) return layout.owned(data_rank);
    return {{0, layout.elements()}};
}

Tensor as_row(Tensor t) {
    return t.reshape({1, t.shape[0]});
}

}  // namespace

NetworkChunk::NetworkChunk(const RunConfig& config, const NetworkConfig& network, StageRange stage, int64_t tokens,
                           Precision precision, const ActivationOptions& activations, const RankPlace& place)
    : model(network, stage, tokens, precision, activations),
      layout(layout_of(model.table(), place.data_ranks * static_cast<int>(config.parallel.virtual_ranks))),
      optimizer(config.optimizer, model.table(), precision, updated_by(layout, config.parallel, place.data_rank),
                static_cast<uint64_t>(config.run.seed)) {
    if (config.parallel.virtual_ranks > 1)
        virtual_plan.add("gradients", {model.table().buffer_elements()}, precision.stream());
}

void NetworkChunk::allocate(const ParallelSection& parallel, Communicator& data, Device device) {
    model.allocate(device);
    optimizer.allocate(device);
    if (data.size() > 1) sync.emplace(data, model.gradients(), layout);
    if (parallel.virtual_ranks > 1) virtual_sum = Arena(virtual_plan, device);
}

int64_t NetworkChunk::bytes() const {
    return model.plan().bytes() + optimizer.plan().bytes() + virtual_plan.bytes();
}

std::vector<std::unique_ptr<NetworkChunk>> plan_chunks(const RunConfig& config, const NetworkConfig& network,
                                                       Precision precision, int64_t tokens, const RankPlace& place) {
    std::vector<std::unique_ptr<NetworkChunk>> chunks;
    chunks.push_back(
        std::make_unique<NetworkChunk>(config, network, StageRange::whole(config.model), tokens, precision,
                                       ActivationOptions{.recompute = recompute_of(config.train.recompute)}, place));
    return chunks;
}

Replica::Replica(const RunConfig& config, const NetworkConfig& network, Precision precision, RankGrid& grid,
                 const Loader& data, const Exec& exec)
    : config_(config), grid_(grid), feed_(data, config.train.micro_batch, exec) {
    const int64_t ranks = grid.data_ranks * config.parallel.virtual_ranks;
    if (config.micro_batches() % ranks)
        fail_input(
            "train.batch_tokens is {} micro batches, which {} ranks cannot share; wanted a multiple of {} tokens",
            config.micro_batches(), ranks, ranks * config.tokens_per_micro_batch());
    if (grid.data_ranks > 1 && config.parallel.virtual_ranks > 1)
        fail_input("parallel.virtual_ranks = {} stands for ranks in one process; here are {}",
                   config.parallel.virtual_ranks, grid.world.size());
    micro_batches_ = config.micro_batches() / ranks;
    chunks_ = plan_chunks(config, network, precision, config.tokens_per_micro_batch(), grid);
}

void Replica::allocate(Device device) {
    for (const auto& chunk : chunks_) chunk->allocate(config_.parallel, grid_.data, device);
}

void Replica::compute_micro_batches(int64_t first_sample, int64_t first, const Exec& exec) {
    NetworkChunk& chunk = *chunks_.front();
    const int64_t rows = config_.train.micro_batch;
    // A recorded micro batch repeats its kernels, not its callbacks: gradients leave after it.
    const bool graphs = config_.run.graphs && exec.device != Device::kCpu;
    if (graphs) await_parameters();
    for (int64_t m = 0; m < micro_batches_; ++m) {
        const TraceRange range(exec, "micro batch", first + m);
        const ModelInput input = feed_.next(first_sample + (first + m) * rows, rows);
        const Write write = m == 0 ? Write::kOverwrite : Write::kAccumulate;
        const bool last = m == micro_batches_ - 1;
        const auto before_layer = [&](int64_t layer) {
            if (chunk.sync && !graphs) chunk.sync->await(layer);
        };
        const auto on_ready = [&](int64_t layer) {
            if (last && chunk.sync && !graphs) chunk.sync->on_ready(layer);
        };
        const auto forward_and_backward = [&] {
            chunk.model.forward(core_, input, write, before_layer, exec);
            chunk.model.backward(core_, input, write, on_ready, exec);
        };
        if (graphs)
            (m == 0 ? first_micro_batch_ : next_micro_batch_).run(exec, forward_and_backward);
        else
            forward_and_backward();
    }
    if (chunk.sync && graphs) chunk.sync->on_ready(-1);
}

// What a run of ranks computes, in one process: each rank's gradients by itself, then added in rank order.
LossSums Replica::compute_as_virtual_ranks(int64_t first_sample, const Exec& exec) {
    LossSums sums;
    for (int64_t r = 0; r < config_.parallel.virtual_ranks; ++r) {
        compute_micro_batches(first_sample, r * micro_batches_, exec);
        for (const auto& chunk : chunks_) {
            const LossSums part = chunk->model.loss(exec);
            sums.nll += part.nll, sums.z += part.z, sums.scored += part.scored;
            const Tensor gradients = as_row(chunk->model.gradients()), sum = as_row(chunk->virtual_sum[{0}]);
            if (r == 0)
                convert(sum, gradients, exec);
            else
                residual_forward(sum, sum, gradients, exec);
        }
    }
    for (const auto& chunk : chunks_) convert(as_row(chunk->model.gradients()), as_row(chunk->virtual_sum[{0}]), exec);
    return sums;
}

LossSums Replica::compute(int64_t first_sample, const Exec& exec) {
    if (config_.parallel.virtual_ranks > 1) return compute_as_virtual_ranks(first_sample, exec);
    compute_micro_batches(first_sample, grid_.data_rank * micro_batches_, exec);
    return chunks_.back()->model.loss(exec);
}

void Replica::finish_gradients() {
    for (const auto& chunk : chunks_) {
        if (!chunk->sync) continue;
        chunk->sync->finish_sums();
        if (config_.parallel.zero1) continue;
        chunk->sync->gather({chunk->model.gradients()});
        chunk->sync->await_all();
    }
}

// By data rank, the sum over what it owns: the same partial sums whoever computes them.
double Replica::gradient_norm(const Exec& exec) {
    const auto ranks = static_cast<size_t>(chunks_.front()->layout.ranks());
    std::vector<double> squares(ranks);
    for (const auto& chunk : chunks_) {
        const Tensor gradients = chunk->model.gradients();
        for (size_t r = 0; r < ranks; ++r) {
            if (chunk->sync && static_cast<int>(r) != grid_.data_rank) continue;
            for (const ElementRange& range : chunk->layout.owned(static_cast<int>(r)))
                squares[r] += sum_of_squares(gradients.slice_rows(range.begin, range.size()), exec);
        }
    }
    grid_.data.sum(squares);  // each rank's number and zeros
    double total = 0;
    for (const double sum : squares) total += sum;
    return std::sqrt(total);
}

void Replica::update(double lr, double gradient_scale, int64_t step, const Exec& exec) {
    for (const auto& chunk : chunks_) {
        chunk->optimizer.step(chunk->model, lr, gradient_scale, step, exec);
        if (chunk->sync && config_.parallel.zero1)
            chunk->sync->gather({chunk->model.parameters(), chunk->model.working()});
    }
}

void Replica::await_parameters() {
    for (const auto& chunk : chunks_)
        if (chunk->sync) chunk->sync->await_all();
}

}  // namespace plimsoll
