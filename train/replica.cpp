#include "train/replica.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/global_norm.h"
#include "kernels/residual.h"
#include "kernels/trace.h"
#include "train/crc32c.h"
#include "train/device.h"

namespace plimsoll {
namespace {

constexpr size_t kMostLanes = 2;  // RunConfig::lanes

Tensor as_row(Tensor t) {
    return t.reshape({1, t.shape.elements()});
}

}  // namespace

int64_t Replica::shared_micro_batches(const RunConfig& config, const RankGrid& grid) {
    const ParallelSection& parallel = config.parallel;
    const int64_t ranks = grid.data_ranks * parallel.virtual_ranks, share = ranks * config.lanes();
    if (config.micro_batches() % share)
        fail_input(
            "train.batch_tokens is {} micro batches, which {} ranks cannot share{}; wanted a multiple of {} tokens",
            config.micro_batches(), ranks, config.cad.ping_pong ? " two at a time (cad.ping_pong)" : "",
            share * config.tokens_per_micro_batch());
    if (grid.data_ranks > 1 && parallel.virtual_ranks > 1)
        fail_input("parallel.virtual_ranks = {} stands for ranks in one process; here are {}", parallel.virtual_ranks,
                   grid.world.size());
    return config.micro_batches() / share;
}

Replica::Replica(const RunConfig& config, const NetworkConfig& network, Precision precision, RankGrid& grid,
                 const Loader& data, const Exec& exec)
    : config_(config),
      network_(network),
      grid_(grid),
      micro_batches_(shared_micro_batches(config, grid)),
      lanes_(config.lanes()),
      attention_(config, network, precision.compute, grid, data, micro_batches_) {
    const int64_t tokens = config.tokens_per_micro_batch();
    chunks_ = plan_chunks(config, network, precision, tokens, grid, chunk_shapes(config, network, grid));
    updates_.resize(chunks_.size());
    if (!config.parallel.pipelined()) {
        for (int lane = 0; lane < lanes_; ++lane)
            feeds_.push_back(std::make_unique<BatchFeed>(data, config.train.micro_batch, exec));
        return;
    }
    executor_ =
        std::make_unique<PipelineExecutor>(grid.forward, grid.backward, schedule_of(config.parallel, micro_batches_));
    work_ = std::make_unique<PipelineWork>(chunks_, attention_, grid, data, config.train.micro_batch, exec);
    if (grid.is_root())
        whole_ = std::make_unique<Transformer>(network, StageRange::whole(config.model), tokens, precision);
}

void Replica::allocate(Device device) {
    for (const auto& chunk : chunks_) chunk->allocate(grid_.data, device);
    if (whole_) whole_->allocate(device);
}

void Replica::compute_in_turn(int64_t first_sample, int data_rank, const Exec& exec) {
    NetworkChunk& chunk = *chunks_.front();
    const int64_t rows = config_.train.micro_batch, first = data_rank * micro_batches_ * lanes_;
    // A recorded micro batch repeats its kernels, not its callbacks: gradients leave after it.
    const bool graphs = records(exec) && !attention_.travels();
    if (graphs) await_parameters();
    std::array<ModelInput, kMostLanes> inputs;
    for (int64_t m = 0; m < micro_batches_; ++m) {
        const TraceRange range(exec, "micro batch", first + m * lanes_);
        for (int lane = 0; lane < lanes_; ++lane) {
            const auto l = static_cast<size_t>(lane);
            inputs[l] = feeds_[l]->next(first_sample + (first + m * lanes_ + lane) * rows, rows);
            inputs[l].set = lane;
        }
        const ModelInputs here(inputs.data(), static_cast<size_t>(lanes_));
        const Write write = m == 0 ? Write::kOverwrite : Write::kAccumulate;
        const bool last = m == micro_batches_ - 1;
        // One pointer each: a std::function takes no more without allocating.
        NetworkChunk* const awaited = graphs ? nullptr : &chunk;
        NetworkChunk* const finished = last ? awaited : nullptr;
        const auto before_layer = [awaited](int64_t layer) {
            if (awaited) awaited->await(layer);
        };
        const auto on_ready = [finished](int64_t layer) {
            if (finished) finished->on_ready(layer);
        };
        const auto forward_and_backward = [&] {
            attention_.enter(Pass::kForward, data_rank, 0, m);
            chunk.model.forward(attention_.core(), here, write, before_layer, exec);
            attention_.enter(Pass::kBackward, data_rank, 0, m);
            chunk.model.backward(attention_.core(), here, write, BackwardPart::kAll, on_ready, exec);
        };
        if (graphs)
            (m == 0 ? first_micro_batch_ : next_micro_batch_).run(exec, forward_and_backward);
        else
            forward_and_backward();
    }
    if (graphs) chunk.on_ready(-1);
}

void Replica::compute_micro_batches(int64_t first_sample, int data_rank, const Exec& exec) {
    if (!executor_) return compute_in_turn(first_sample, data_rank, exec);
    const int64_t first = data_rank * micro_batches_ * lanes_;
    work_->begin(data_rank, first_sample + first * config_.train.micro_batch, micro_batches_, exec);
    times_ = executor_->run(*work_, exec);
    sum_shared_table(exec);
}

void Replica::sum_shared_table(const Exec& exec) {
    NetworkChunk &embedding = *chunks_.front(), &head = *chunks_.back();
    if (grid_.stages == 1) {
        if (!embedding.shares_table()) return;
        const Tensor sum = as_row(embedding.table_gradient()), other = as_row(head.table_gradient());
        residual_forward(sum, sum, other, exec);
        convert(other, sum, exec);
        return;
    }
    NetworkChunk& chunk = grid_.stage == 0 ? embedding : head;
    if (!chunk.shares_table()) return;
    const bool first = grid_.stage == 0;
    const Tensor own = chunk.table_gradient(), other = chunk.extra[chunk.other_table];
    const int peer = first ? grid_.stages - 1 : 0;
    Work sent = grid_.forward.send(own, peer);
    grid_.forward.receive(other, peer).wait();
    sent.wait();
    // The embedding's part first, on both.
    residual_forward(as_row(own), as_row(first ? own : other), as_row(first ? other : own), exec);
    chunk.table_is_summed();
}

// What a run of ranks computes, in one process: each rank's gradients by itself, then added in rank order.
LossSums Replica::compute_as_virtual_ranks(int64_t first_sample, const Exec& exec) {
    LossSums sums;
    for (int r = 0; r < config_.parallel.virtual_ranks; ++r) {
        compute_micro_batches(first_sample, r, exec);
        for (const auto& chunk : chunks_) {
            sums += chunk->model.loss(exec);
            const Tensor gradients = as_row(chunk->model.gradients()), sum = as_row(chunk->extra[chunk->virtual_sum]);
            if (r == 0)
                convert(sum, gradients, exec);
            else
                residual_forward(sum, sum, gradients, exec);
        }
    }
    for (const auto& chunk : chunks_)
        convert(as_row(chunk->model.gradients()), as_row(chunk->extra[chunk->virtual_sum]), exec);
    return sums;
}

const std::string& Replica::why_no_graphs() const {
    for (const Replay* part : {&first_micro_batch_, &next_micro_batch_})
        if (!part->why_not().empty()) return part->why_not();
    const auto refused = std::ranges::find_if(updates_, [](const Replay& update) { return !update.why_not().empty(); });
    return refused == updates_.end() ? first_micro_batch_.why_not() : refused->why_not();
}

LossSums Replica::compute(int64_t first_sample, const Exec& exec) {
    attention_.begin_step(first_sample);
    faulty_ = false;
    if (config_.parallel.virtual_ranks > 1) return compute_as_virtual_ranks(first_sample, exec);
    compute_micro_batches(first_sample, grid_.data_rank, exec);
    LossSums sums;
    for (const auto& chunk : chunks_) sums += chunk->model.loss(exec);
    return sums;
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

// By virtual stage, then by data rank, the sum over what that rank owns: the same partial sums whoever computes them.
double Replica::gradient_norm(const Exec& exec) {
    const int ranks = chunks_.front()->layout.ranks();
    std::vector<double>& squares = squares_;
    squares.assign(chunks_.size() * static_cast<size_t>(grid_.stages * ranks), 0);
    for (size_t c = 0; c < chunks_.size(); ++c) {
        const NetworkChunk& chunk = *chunks_[c];
        const Tensor gradients = chunk.model.gradients();
        const size_t virtual_stage = c * static_cast<size_t>(grid_.stages) + static_cast<size_t>(grid_.stage);
        for (int r = 0; r < ranks; ++r) {
            if (chunk.sync && r != grid_.data_rank) continue;
            double& sum = squares[virtual_stage * static_cast<size_t>(ranks) + static_cast<size_t>(r)];
            if (chunk.model.sums_squares() && !faulty_) {
                sum = chunk.model.sum_of_gradient_squares(exec);
                continue;
            }
            for (const ElementRange& range : chunk.counted[static_cast<size_t>(r)])
                sum += sum_of_squares(gradients.slice_rows(range.begin, range.size()), exec);
        }
    }
    grid_.world.sum(squares);  // one rank's number and the others' zeros
    double total = 0;
    for (const double sum : squares) total += sum;
    return std::sqrt(total);
}

void Replica::update(double lr, double gradient_scale, int64_t step, const Exec& exec) {
    for (size_t c = 0; c < chunks_.size(); ++c) {
        NetworkChunk* const chunk = chunks_[c].get();
        chunk->optimizer.begin_step(lr, gradient_scale, step, exec);
        const auto ops = [chunk, &exec] { chunk->optimizer.update(chunk->model, exec); };
        if (records(exec))
            updates_[c].run(exec, ops);
        else
            ops();
        if (chunk->sync && config_.parallel.zero1)
            chunk->sync->gather({chunk->model.parameters(), chunk->model.working()});
    }
}

void Replica::await_parameters() {
    for (const auto& chunk : chunks_) chunk->await_all();
}

std::vector<int> Replica::ranks_that_differ(const Exec& exec) {
    await_parameters();
    uint32_t sum = 0;
    for (const auto& chunk : chunks_) {
        const HostCopy parameters(chunk->model.parameters(), exec);
        sum = crc32c(parameters.tensor().data, static_cast<size_t>(parameters.tensor().bytes()), sum);
    }
    const std::vector<uint32_t> sums = grid_.data.gather_each(sum);
    const uint32_t usual = *std::ranges::max_element(sums, {}, [&](uint32_t s) { return std::ranges::count(sums, s); });
    std::vector<int> ranks;
    for (size_t r = 0; r < sums.size(); ++r)
        if (sums[r] != usual) ranks.push_back(static_cast<int>(r) * grid_.stages + grid_.stage);
    return ranks;
}

void Replica::inject_before(FaultHook& fault, int64_t step) {
    if (!fault.is_armed()) return;
    await_parameters();
    for (const auto& chunk : chunks_) fault.parameters(chunk->model.parameters(), step, grid_.world.rank());
}

void Replica::inject(FaultHook& fault, int64_t step) {
    for (const auto& chunk : chunks_) {
        const auto& owned = chunk->optimizer.owned();
        if (owned.empty()) continue;
        faulty_ |= fault.gradients(chunk->model.gradients(), owned.front().begin, step, grid_.world.rank());
    }
}

Transformer* Replica::whole() {
    return executor_ ? whole_.get() : &chunks_.front()->model;
}

void Replica::collect(const Exec& exec) {
    await_parameters();
    if (!executor_ || grid_.data_rank > 0) return;
    const std::vector<StageRange> ranges = stage_ranges(network_, grid_.stages * config_.parallel.chunks);
    for (size_t v = 0; v < ranges.size(); ++v) {
        const int stage = static_cast<int>(v) % grid_.stages;
        if (!whole_ && stage != grid_.stage) continue;
        const size_t chunk = v / static_cast<size_t>(grid_.stages);
        const ParameterTable table(network_, ranges[v]);
        for (const Parameter& p : table.entries()) {
            if (p.layer == -1 && !ranges[v].embedding) continue;  // the head's copy of a tied table
            const auto here = [&] {
                const Transformer& model = chunks_[chunk]->model;
                return model.table().view(model.parameters(), model.table().find(p.name));
            };
            if (!whole_) {
                grid_.forward.send(here(), 0).wait();
                continue;
            }
            const Tensor there = whole_->table().view(whole_->parameters(), whole_->table().find(p.name));
            if (stage == grid_.stage)
                copy_tensor(there, here(), exec);
            else
                grid_.forward.receive(there, stage).wait();
        }
    }
    if (whole_) whole_->refresh_working(exec);
}

}  // namespace plimsoll
