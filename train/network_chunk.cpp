#include "train/network_chunk.h"

#include <algorithm>

#include "dist/pipeline/executor.h"
#include "model/flops.h"

namespace plimsoll {
namespace {

ShardLayout layout_of(const ParameterTable& table, const OptimizerSection& optimizer, int ranks) {
    std::vector<LayerPart> parts;
    for (const Parameter& p : table.entries())
        parts.push_back({{p.offset, p.offset + p.shape.elements()}, p.layer, Optimizer::unit(optimizer, p)});
    return ShardLayout(parts, table.buffer_elements(), ranks);
}

// Only ranks of their own have shards of their own: virtual ones share one memory.
std::vector<ElementRange> updated_by(const ShardLayout& layout, const ParallelSection& parallel, int data_rank) {
    if (parallel.zero1 && parallel.virtual_ranks == 1) return layout.owned(data_rank);
    return {{0, layout.elements()}};
}

}  // namespace

NetworkChunk::NetworkChunk(const RunConfig& config, const NetworkConfig& network, StageRange stage, int64_t tokens,
                           Precision precision, const ActivationOptions& activations, const RankPlace& place)
    : model(network, stage, tokens, precision, activations),
      layout(layout_of(model.table(), config.optimizer,
                       place.data_ranks * static_cast<int>(config.parallel.virtual_ranks))),
      optimizer(config.optimizer, model.table(), precision, updated_by(layout, config.parallel, place.data_rank),
                static_cast<uint64_t>(config.run.seed)) {
    const DType stream = precision.stream();
    if (config.parallel.virtual_ranks > 1)
        virtual_sum = extra_plan.add("over virtual ranks", {model.table().buffer_elements()}, stream);
    for (int rank = 0; rank < layout.ranks(); ++rank) {
        std::vector<ElementRange>& ranges = counted.emplace_back(layout.owned(rank));
        if (!holds_copy()) continue;
        const int64_t copy_end = model.table().entries()[1].offset;
        for (ElementRange& range : ranges) range.begin = std::clamp(copy_end, range.begin, range.end);
        std::erase_if(ranges, [](const ElementRange& range) { return range.size() == 0; });
    }
    if (shares_table()) other_table = extra_plan.add("other table", model.table().entries().front().shape, stream);
}

void NetworkChunk::allocate(Communicator& data, Device device) {
    model.allocate(device);
    optimizer.allocate(device);
    if (data.size() > 1) sync.emplace(data, model.gradients(), layout);
    if (extra_plan.bytes()) extra = Arena(extra_plan, device);
}

int64_t NetworkChunk::bytes() const {
    return model.plan().bytes() + optimizer.plan().bytes() + extra_plan.bytes();
}

bool NetworkChunk::shares_table() const {
    return model.config().model.tied && model.stage().embedding != model.stage().head;
}

void NetworkChunk::on_ready(int64_t layer) {
    if (sync && !(layer == -1 && shares_table())) sync->on_ready(layer);
}

void NetworkChunk::table_is_summed() {
    if (sync) sync->on_ready(-1);
}

void NetworkChunk::await(int64_t layer) {
    if (sync) sync->await(layer);
}

void NetworkChunk::await_all() {
    if (sync) sync->await_all();
}

Schedule schedule_of(const ParallelSection& parallel, int64_t micro_batches) {
    return make_schedule(parallel.schedule, {.stages = static_cast<int>(parallel.stages),
                                             .micro_batches = micro_batches,
                                             .chunks = static_cast<int>(parallel.chunks),
                                             .in_flight_cap = parallel.in_flight,
                                             .costs = {}});
}

LayerCosts layer_costs(const NetworkConfig& network) {
    LayerCosts costs{.embedding = 0, .blocks = {}, .head = head_flops_per_token(network)};
    for (int64_t layer = 0; layer < network.model.layers; ++layer)
        costs.blocks.push_back(block_flops_per_token(network, layer));
    return costs;
}

std::vector<StageRange> stage_ranges(const NetworkConfig& network, int64_t virtual_stages) {
    if (virtual_stages > network.model.layers)
        fail_input("{} pipeline stages (parallel.stages x parallel.chunks) for {} layers; each needs one",
                   virtual_stages, network.model.layers);
    std::vector<StageRange> ranges;
    for (const BlockRange& part : balance(layer_costs(network), static_cast<int>(virtual_stages)))
        ranges.push_back({part.begin, part.end, part.begin == 0, part.end == network.model.layers});
    return ranges;
}

std::vector<ChunkShape> chunk_shapes(const RunConfig& config, const NetworkConfig& network, const RankPlace& place) {
    const ParallelSection& parallel = config.parallel;
    const int lanes = config.lanes();
    ActivationOptions options{.recompute = recompute_of(config.train.recompute), .sets = lanes, .lanes = lanes};
    const int64_t micro_batches = config.micro_batches() / (place.data_ranks * parallel.virtual_ranks * lanes);
    if (!parallel.pipelined()) {
        // Worth it where gradients are written once and nobody adds others' to them.
        options.squares = place.data_ranks == 1 && parallel.virtual_ranks == 1 && lanes == 1 && micro_batches == 1;
        return {{StageRange::whole(config.model), options}};
    }
    const std::vector<StageRange> ranges = stage_ranges(network, parallel.stages * parallel.chunks);
    const StagePlan plan(schedule_of(parallel, micro_batches), place.stage);
    if (plan.splits_backward()) options.split = BackwardSplit::kYes;
    std::vector<ChunkShape> shapes;
    for (int64_t c = 0; c < parallel.chunks; ++c) {
        options.sets = plan.sets[static_cast<size_t>(c)] * lanes;
        shapes.push_back({ranges[static_cast<size_t>(c * parallel.stages + place.stage)], options});
    }
    return shapes;
}

std::vector<std::unique_ptr<NetworkChunk>> plan_chunks(const RunConfig& config, const NetworkConfig& network,
                                                       Precision precision, int64_t tokens, const RankPlace& place,
                                                       const std::vector<ChunkShape>& shapes) {
    std::vector<std::unique_ptr<NetworkChunk>> chunks;
    for (const ChunkShape& shape : shapes)
        chunks.push_back(
            std::make_unique<NetworkChunk>(config, network, shape.stage, tokens, precision, shape.activations, place));
    return chunks;
}

}  // namespace plimsoll
