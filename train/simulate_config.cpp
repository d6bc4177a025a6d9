#include "train/simulate_config.h"

#include <algorithm>

#include "kernels/error.h"
#include "train/config.h"

namespace plimsoll {
namespace {

constexpr double kGiga = 1e9, kMicro = 1e-6, kGiB = 1 << 30;

int64_t chosen(int64_t value, int64_t preset) {
    return value ? value : preset;
}

void check_between(const char* key, double value, double low, double high) {
    if (!(value >= low && value <= high)) fail_input("{} is {}, must lie in {} .. {}", key, value, low, high);
}

}  // namespace

ModelShape SimulatedModelSection::shape() const {
    // Llama 3 8B; and the "34B" of DistCA: Code Llama 34B's sizes with 16 heads of keys and values.
    const ModelShape known = preset == "llama-8b" ? ModelShape{}
                                                  : ModelShape{.layers = 48,
                                                               .channels = 8192,
                                                               .heads = 64,
                                                               .kv_heads = 16,
                                                               .head_size = 128,
                                                               .ffn = 22016,
                                                               .vocab = 32000};
    return {.layers = chosen(layers, known.layers),
            .channels = chosen(channels, known.channels),
            .heads = chosen(heads, known.heads),
            .kv_heads = chosen(kv_heads, known.kv_heads),
            .head_size = chosen(head_size, known.head_size),
            .ffn = chosen(ffn, known.ffn),
            .vocab = chosen(vocab, known.vocab)};
}

ClusterModel ClusterSection::model() const {
    return {.nodes = nodes,
            .gpus_per_node = gpus_per_node,
            .flops = tflops * 1e12,
            .gemm_efficiency = gemm_efficiency,
            .attention_efficiency = attention_efficiency,
            .attention_floor = attention_floor_us * kMicro,
            .backward_linear = backward_linear,
            .backward_attention = backward_attention,
            .intra_bandwidth = intra_gbps * kGiga,
            .inter_bandwidth = inter_gbps * kGiga,
            .latency = latency_us * kMicro,
            .copy_bandwidth = copy_gbps * kGiga,
            .memory = memory_gb * kGiga};
}

LengthRules LengthSection::rules() const {
    return {.context = context,
            .long_weight = long_weight,
            .short_weight = short_weight,
            .long_from = long_from,
            .replaced = replaced,
            .lengthened_from = lengthened_from};
}

CadOptions CadModelSection::options() const {
    return {.tolerance = tolerance,
            .block = block,
            .two_hop = two_hop,
            .byte_cap = static_cast<int64_t>(byte_cap_gib * kGiB),
            .spread = spread,
            .copy_local = copy_local,
            .resend = resend};
}

void SimulateConfig::validate() const {
    check_naming_places(places, [&] { check_values(); });
}

void SimulateConfig::check_values() const {
    constexpr int64_t kMany = 1 << 24;
    check_range("simulate.iterations", simulate.iterations, 1, 100'000);
    check_range("simulate.seed", simulate.seed, 0, INT64_MAX);
    check_range("simulate.threads", simulate.threads, 0, 4096);
    for (const auto& [key, value] : {std::pair{"model.layers", model.layers},
                                     {"model.channels", model.channels},
                                     {"model.heads", model.heads},
                                     {"model.kv_heads", model.kv_heads},
                                     {"model.head_size", model.head_size},
                                     {"model.ffn", model.ffn},
                                     {"model.vocab", model.vocab}})
        check_range(key, value, 0, kMany);
    check_range("cluster.nodes", cluster.nodes, 1, 1 << 16);
    check_range("cluster.gpus_per_node", cluster.gpus_per_node, 1, 1024);
    for (const auto& [key, value] : {std::pair{"cluster.tflops", cluster.tflops},
                                     {"cluster.gemm_efficiency", cluster.gemm_efficiency},
                                     {"cluster.attention_efficiency", cluster.attention_efficiency},
                                     {"cluster.backward_linear", cluster.backward_linear},
                                     {"cluster.backward_attention", cluster.backward_attention},
                                     {"cluster.intra_gbps", cluster.intra_gbps},
                                     {"cluster.inter_gbps", cluster.inter_gbps},
                                     {"cluster.copy_gbps", cluster.copy_gbps},
                                     {"cluster.memory_gb", cluster.memory_gb}})
        check_between(key, value, 1e-6, 1e12);
    check_between("cluster.attention_floor_us", cluster.attention_floor_us, 0, 1e9);
    check_between("cluster.latency_us", cluster.latency_us, 0, 1e9);
    check_range("parallel.tensor", parallel.tensor, 1, 1024);
    check_range("parallel.stages", parallel.stages, 1, 1024);
    check_range("parallel.micro_batches", parallel.micro_batches, 1, 4096);
    check_range("parallel.tokens", parallel.tokens, 2, kMany);
    if (parallel.tokens % 2) fail_input("parallel.tokens is {}, must be even", parallel.tokens);
    if (parallel.in_flight)
        check_range("parallel.in_flight", parallel.in_flight, parallel.stages, 2 * parallel.stages - 1);
    const int64_t gpus = cluster.nodes * cluster.gpus_per_node, each = parallel.tensor * parallel.stages;
    if (gpus % each)
        fail_input("parallel.stages x tensor = {} GPUs do not divide the {} of cluster.nodes x gpus_per_node", each,
                   gpus);
    if (cluster.gpus_per_node % parallel.tensor && parallel.tensor % cluster.gpus_per_node)
        fail_input("parallel.tensor is {}, must divide cluster.gpus_per_node = {} or be a multiple", parallel.tensor,
                   cluster.gpus_per_node);
    if (const int64_t layers = model.shape().layers; layers % parallel.stages)
        fail_input("parallel.stages is {}, must divide the {} blocks of the model", parallel.stages, layers);
    for (const int64_t context : parallel.contexts)
        if (context < 1 || columns() % context)
            fail_input("parallel.contexts holds {}, must divide the {} columns (GPUs / tensor / stages)", context,
                       columns());
    check_range("lengths.context", lengths.context, 1, kMany);
    check_range("lengths.equal", lengths.equal, 1, kMany);
    check_range("lengths.rows", lengths.rows, 1, kMany);
    check_range("lengths.long_from", lengths.long_from, 1, kMany);
    check_range("lengths.lengthened_from", lengths.lengthened_from, 0, kMany);
    check_between("lengths.long_weight", lengths.long_weight, 0, 1e6);
    check_between("lengths.short_weight", lengths.short_weight, 0, 1e6);
    check_between("lengths.replaced", lengths.replaced, 0, 1);
    if (lengths.path.empty() && lengths.source != "pretrain" && lengths.source != "prolong" &&
        lengths.source != "equal")
        fail_input("lengths.path is empty, must name the {} of lengths.source", lengths.source);
    check_between("cad.tolerance", cad.tolerance, 1e-4, 10);
    check_range("cad.block", cad.block, 1, kMany);
    check_between("cad.byte_cap_gib", cad.byte_cap_gib, 0, 1e6);
    check_between("cad.spread", cad.spread, 1, 10);
    if (cad.gradient_bytes != 2 && cad.gradient_bytes != 4)
        fail_input("cad.gradient_bytes is {}, must be 2 or 4", cad.gradient_bytes);
    if (!cad.resend && parallel.stages > 1)
        fail_input("cad.resend is false, with parallel.stages = {}; servers can keep tensors with one stage only",
                   parallel.stages);
}

PolicySetting SimulateConfig::setting() const {
    const ParallelShape shape{.tensor = parallel.tensor, .stages = parallel.stages, .columns = columns()};
    return {
        .parallel = shape,
        .costs = step_costs(
            model.shape(), cluster.model(), shape,
            {.resend = cad.resend, .gradient_bytes = cad.gradient_bytes, .light_recompute = parallel.light_recompute}),
        .micro_batches = parallel.micro_batches,
        .tokens = parallel.tokens,
        .schedule = parallel.schedule,
        .in_flight = parallel.in_flight,
        .memory = cluster.model().memory,
        .contexts = parallel.contexts,
        .cad = cad.options()};
}

DocumentLengths SimulateConfig::document_lengths() const {
    const auto seed = static_cast<uint64_t>(simulate.seed);
    if (lengths.source == "pretrain" || lengths.source == "prolong")
        return DocumentLengths(lengths.source, lengths.rules(), seed);
    std::vector<int64_t> list{lengths.equal};
    if (lengths.source == "file") list = read_lengths(lengths.path);
    if (lengths.source == "shards") list = lengths_of_shards(lengths.path);
    if (lengths.source == "corpus") {
        const RunConfig run = load_config({.file = lengths.path, .variant = {}, .overrides = {}});
        list = lengths_of_corpus(run.data, lengths.context, lengths.rows, static_cast<uint64_t>(run.run.seed));
    }
    return DocumentLengths(std::move(list), "lengths." + lengths.source, lengths.rules(), seed);
}

SimulateConfig load_simulate_config(const ConfigSources& sources) {
    SimulateConfig config;
    read_config(sources, config_fields(config), config.places, "plimsoll simulate");
    return config;
}

std::string simulate_config_reference() {
    SimulateConfig defaults;
    return reference_of(config_fields(defaults));
}

}  // namespace plimsoll
