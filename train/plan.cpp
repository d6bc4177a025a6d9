#include "train/plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/loader.h"
#include "kernels/gpu.h"
#include "kernels/matmul.h"
#include "model/flops.h"
#include "train/device.h"
#include "train/feed.h"
#include "train/log.h"
#include "train/machine.h"
#include "train/speed.h"

namespace plimsoll {
namespace {

constexpr double kMiB = 1 << 20;

using Chunks = std::vector<std::unique_ptr<NetworkChunk>>;

std::vector<const ArenaPlan*> arenas(const NetworkChunk& chunk) {
    const ModelPlan& plan = chunk.model.plan();
    return {&plan.parameters, &plan.gradients, &chunk.optimizer.plan(), &plan.activations, &plan.scratch, &plan.head};
}

// Of the chunks of a process, what moves their gradients, and a pipeline's whole network for evaluation.
int64_t bytes_of(const Chunks& chunks, int64_t tokens, const RankPlace& place, const Exec& exec) {
    const Transformer& first = chunks.front()->model;
    int64_t total = 0;
    if (exec.cuda) total = gpu_scratch_bytes(scratch_sizes(first, tokens), exec) + BatchFeed::device_bytes(tokens);
    for (const auto& chunk : chunks) {
        total += chunk->bytes();
        // The other ranks' parts of the shards that are under way: all of them at the end of a backward.
        if (place.data_ranks > 1)
            for (const ElementRange& shard : chunk->layout.owned(place.data_rank))
                total += shard.size() * size_of(chunk->model.precision().stream()) * (place.data_ranks - 1);
    }
    const bool pipelined = place.stages > 1 || chunks.size() > 1;
    if (pipelined && place.stage == 0 && place.data_rank == 0)
        total += Transformer(first.config(), StageRange::whole(first.config().model), tokens, first.precision())
                     .plan()
                     .bytes();
    return total;
}

}  // namespace

ScratchSizes scratch_sizes(const Transformer& model, int64_t tokens) {
    const ModelConfig& m = model.config().model;
    const auto core = model.config().attention.core_sizes(m);
    const int64_t qkv = (core.NH + 2 * core.NKV) * core.HS;
    return {.tokens = tokens,
            .heads = core.NH,
            .key_heads = core.NKV,
            .head_size = core.HS,
            .value_size = core.VS,
            .columns = std::max({m.channels, qkv, 2 * m.hidden()}),
            .parameters = model.table().buffer_elements()};
}

MemoryPlan plan_memory(const RunConfig& config, const NetworkConfig& network, Precision precision,
                       const RankPlace& place, const Exec& exec) {
    const std::vector<ChunkShape> shapes = chunk_shapes(config, network, place);
    const auto bytes_for = [&](int64_t rows) {
        const int64_t tokens = rows * config.model.context;
        return bytes_of(plan_chunks(config, network, precision, tokens, place, shapes), tokens, place, exec);
    };
    const int64_t taken = gpu_scratch_bytes({}, exec);  // when the GPU was opened
    MemoryPlan plan{.bytes = bytes_for(config.train.micro_batch),
                    .available = exec.cuda ? free_gpu_memory(exec) + taken : available_memory()};
    // Memory is linear in rows but for the bounded buffer of logits: double, then halve the step.
    int64_t fits = 0, step = 1;
    while (step < (int64_t{1} << 24) && bytes_for(fits + step) <= plan.available) fits += step, step *= 2;
    for (; step > 0; step /= 2)
        if (bytes_for(fits + step) <= plan.available) fits += step;
    plan.largest_micro_batch = fits;
    return plan;
}

std::string arena_table(const NetworkChunk& chunk) {
    std::string out = "memory";
    for (const ArenaPlan* arena : arenas(chunk))
        out += fmt::format("\n  {:<18}{:>10.1f} MiB", arena->name(), arena->mib());
    return out;
}

namespace {

// What each stage of a pipeline computes and holds.
void print_stages(const RunConfig& config, const NetworkConfig& network, Precision precision, int data_ranks) {
    const ParallelSection& parallel = config.parallel;
    const LayerCosts costs = layer_costs(network);
    const std::vector<StageRange> ranges = stage_ranges(network, parallel.stages * parallel.chunks);
    const double all = flops_per_token(network);
    fmt::print("\n{} pipeline stages, {} data ranks, schedule {}, {} micro batches per step and data rank\n",
               parallel.stages, data_ranks, parallel.schedule, config.micro_batches() / data_ranks);
    fmt::print("  {:<6}{:<24}{:>8}{:>12}{:>14}{:>12}{:>14}{:>12}\n", "stage", "layers", "FLOPs", "parameters",
               "optimizer MiB", "in flight", "activations", "all MiB");
    for (int s = 0; s < parallel.stages; ++s) {
        const RankPlace place{static_cast<int>(parallel.stages), s, data_ranks, 0};
        const Chunks chunks = plan_chunks(config, network, precision, config.tokens_per_micro_batch(), place,
                                          chunk_shapes(config, network, place));
        std::string layers;
        double flops = 0;
        int64_t parameters = 0, optimizer = 0, sets = 0, activations = 0, bytes = 0;
        for (const auto& chunk : chunks) {
            const StageRange range = chunk->model.stage();
            layers += fmt::format("{}{}{}-{}{}", layers.empty() ? "" : ", ", range.embedding ? "embedding, " : "",
                                  range.first_layer, range.last_layer - 1, range.head ? ", head" : "");
            flops += cost_of(costs, {range.first_layer, range.last_layer});
            parameters += chunk->model.table().count();
            optimizer += chunk->optimizer.plan().bytes();
            sets += chunk->model.plan().activation_sets;
            activations += chunk->model.plan().activation_sets * chunk->model.plan().activations.bytes();
            bytes += chunk->bytes();
        }
        const auto mib = [](int64_t b) { return static_cast<double>(b) / kMiB; };
        fmt::print("  {:<6}{:<24}{:>6.1f} %{:>12}{:>14.1f}{:>12}{:>14.1f}{:>12.1f}\n", s, layers, 100 * flops / all,
                   parameters, mib(optimizer), sets, mib(activations), mib(bytes));
    }
}

}  // namespace

LoaderOptions training_options(const RunConfig& config) {
    return {.T = config.model.context,
            .placeholders = config.attention.placeholders,
            .shared_placeholders = 0,
            .seed = static_cast<uint64_t>(config.run.seed),
            .prefix = config.attention.prefix};
}

NetworkConfig with_sized_logits(NetworkConfig network, int64_t tokens, Precision precision, const Exec& exec) {
    if (network.loss.logits_mib > 0) return network;
    constexpr int64_t kShare = 16;  // of the card's memory
    // One column more: the buffer is cut in columns of the stream's dtype, which holds two of bf16.
    const int64_t all = tokens * (network.total_vocab() + 1) * size_of(precision.compute);
    const int64_t most = std::max(LossConfig::kUsualLogitsMib, gpu_memory(exec) / kShare >> 20);
    network.loss.logits_mib =
        exec.device == Device::kCpu ? LossConfig::kUsualLogitsMib : std::min((all >> 20) + 1, most);
    return network;
}

int print_plan(const RunConfig& config, int ranks) {
    config.validate();
    const Loader data(config.data, Split::kTrain, training_options(config));
    const RunDevice device(config.run.device, threads_of(config.run.threads));
    const Exec& exec = device.exec();
    const Precision precision{compute_dtype(config.run.precision, exec.device)};
    const NetworkConfig network = with_sized_logits({config.model, config.attention, config.loss, data.vocab_size()},
                                                    config.tokens_per_micro_batch(), precision, exec);
    const RankPlace place = place_of(0, std::max(ranks, static_cast<int>(config.parallel.stages)), config.parallel);
    const Chunks chunks = plan_chunks(config, network, precision, config.tokens_per_micro_batch(), place,
                                      chunk_shapes(config, network, place));
    const Transformer& model = chunks.front()->model;
    for (const ArenaPlan* arena : arenas(*chunks.front())) {
        fmt::print("{} ({:.1f} MiB)\n", arena->name(), arena->mib());
        for (const ArenaPlan::Entry& e : arena->entries())
            fmt::print("  {:<28} {:<20} {:<5} {:>10.2f} MiB\n", e.name, e.shape.to_string(), name_of(e.dtype),
                       static_cast<double>(e.bytes) / kMiB);
        if (arena == &model.plan().parameters)
            for (const Parameter& p : model.table().entries())
                fmt::print("    {:<26} {:<20}       {:>10.2f} MiB\n", p.name, p.shape.to_string(),
                           static_cast<double>(p.shape.elements() * size_of(precision.stream())) / kMiB);
    }
    if (config.parallel.pipelined()) print_stages(config, network, precision, place.data_ranks);
    const double flops = flops_per_token(network), step_flops = flops * static_cast<double>(config.batch_tokens());
    // Measured here: a product of the model's own shape says what this machine reaches.
    const double rate = matmul_flops_per_second(precision.compute, device.is_gpu() ? 8192 : 1024,
                                                4 * config.model.channels, config.model.channels, exec);
    const MemoryPlan memory = plan_memory(config, network, precision, place, exec);
    const ParameterTable table(network, StageRange::whole(config.model));
    fmt::print("\nparameters           {} ({} without embeddings)\n", table.count(), table.count_non_embedding());
    fmt::print("FLOPs per token      {:.4g} (forward and backward)\n", flops);
    fmt::print("step                 {} tokens = {} x {} rows of {}, {:.4g} FLOPs\n", config.batch_tokens(),
               config.micro_batches(), config.train.micro_batch, config.model.context, step_flops);
    fmt::print("expected time        {} per step, {} for {} steps, at the {:.0f} GFLOP/s a {} product reaches here\n",
               duration(step_flops / rate), duration(step_flops / rate * static_cast<double>(config.max_steps())),
               config.max_steps(), rate / 1e9, name_of(precision.compute));
    if (device.is_gpu())
        fmt::print(
            "scratch of the GPU   {:.1f} MiB\n",
            static_cast<double>(gpu_scratch_bytes(scratch_sizes(model, config.tokens_per_micro_batch()), exec)) / kMiB);
    fmt::print("memory               {:.1f} MiB of {:.1f} MiB available\n", static_cast<double>(memory.bytes) / kMiB,
               static_cast<double>(memory.available) / kMiB);
    fmt::print("largest micro batch  {} rows\n", memory.largest_micro_batch);
    if (memory.fits()) return static_cast<int>(ExitCode::kOk);
    fmt::print("does not fit: set train.micro_batch to at most {}{}\n", memory.largest_micro_batch,
               memory.largest_micro_batch ? "" : ", and choose a smaller model: not even one row fits");
    return static_cast<int>(ExitCode::kBadInput);
}

}  // namespace plimsoll
