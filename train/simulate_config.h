// The configuration of `plimsoll simulate`.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "data/document_lengths.h"
#include "dist/simulator/policies.h"
#include "train/config_fields.h"

namespace plimsoll {

struct SimulateSection {
    std::string name = "simulate";
    int64_t iterations = 30;
    int64_t seed = 1;
    int64_t threads = 0;
    std::vector<std::string> sweep;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("name", self.name, "name of the study, for the report");
        v.field("iterations", self.iterations, "steps with documents of their own");
        v.field("seed", self.seed, "seed of the documents' lengths");
        v.field("threads", self.threads, "CPU threads; 0 = all. Never changes results");
        v.list("sweep", self.sweep,
               "axes of a grid: each entry names what one axis sets, alternatives separated by |, such as "
               "'lengths.context=131072 | lengths.context=262144 parallel.stages=4'");
    }
};

// Sizes of the transformer; 0 = the preset's.
struct SimulatedModelSection {
    std::string preset = "llama-8b";
    int64_t layers = 0, channels = 0, heads = 0, kv_heads = 0, head_size = 0, ffn = 0, vocab = 0;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("preset", self.preset, {"llama-8b", "llama-34b"},
                 "32 blocks of 4096 channels, 32 / 8 heads; 48 blocks of 8192, 64 / 16 heads");
        v.field("layers", self.layers, "blocks; this and all below: 0 = the preset's");
        v.field("channels", self.channels, "width of the residual stream");
        v.field("heads", self.heads, "attention heads");
        v.field("kv_heads", self.kv_heads, "heads of keys and values");
        v.field("head_size", self.head_size, "channels of a head");
        v.field("ffn", self.ffn, "hidden units of the SwiGLU MLP");
        v.field("vocab", self.vocab, "token ids");
    }
    ModelShape shape() const;
};

struct ClusterSection {
    int64_t nodes = 8;
    int64_t gpus_per_node = 8;
    double tflops = 989;
    double gemm_efficiency = 0.57;
    double attention_efficiency = 0.271;
    double attention_floor_us = 20;
    double backward_linear = 1.89;
    double backward_attention = 2.97;
    double intra_gbps = 400;
    double inter_gbps = 45;
    double latency_us = 5;
    double copy_gbps = 270;
    double memory_gb = 141;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("nodes", self.nodes, "machines");
        v.field("gpus_per_node", self.gpus_per_node, "GPUs of a machine");
        v.field("tflops", self.tflops, "dense bf16 TFLOP/s of a GPU, by its data sheet");
        v.field("gemm_efficiency", self.gemm_efficiency, "share of tflops that matrix products reach");
        v.field("attention_efficiency", self.attention_efficiency, "share of it that core attention reaches, forward");
        v.field("attention_floor_us", self.attention_floor_us, "least microseconds of a launch of core attention");
        v.field("backward_linear", self.backward_linear, "time of backward over forward, linear pieces");
        v.field("backward_attention", self.backward_attention, "time of backward over forward, core attention");
        v.field("intra_gbps", self.intra_gbps, "GB/s each way of a GPU within its machine");
        v.field("inter_gbps", self.inter_gbps, "GB/s each way of a GPU to other machines");
        v.field("latency_us", self.latency_us, "microseconds of a message, and per peer of an all-to-all");
        v.field("copy_gbps", self.copy_gbps, "GB/s that pack and unpack buffers");
        v.field("memory_gb", self.memory_gb, "GB of a GPU; what needs more is no baseline");
    }
    ClusterModel model() const;
};

struct SimulatedParallelSection {
    int64_t tensor = 8;
    int64_t stages = 1;
    int64_t micro_batches = 1;
    int64_t tokens = 131072;
    std::string schedule = "1f1b";
    int64_t in_flight = 0;
    std::vector<int64_t> contexts;
    bool light_recompute = false;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("tensor", self.tensor, "GPUs that share every product (TP); together they are a rank");
        v.field("stages", self.stages, "pipeline stages (PP); data x context ranks = GPUs / tensor / stages");
        v.field("micro_batches", self.micro_batches, "micro batches of a step");
        v.field("tokens", self.tokens, "tokens of a rank and micro batch, even");
        v.choice("schedule", self.schedule, {"1f1b", "zb-h1"},
                 "pipeline schedule of the policies without CAD; CAD runs same-phase");
        v.field("in_flight", self.in_flight,
                "CAD with stages: micro batches whose activations a stage may hold; 0 = 2 stages - 1, fewer if they do "
                "not fit");
        v.list("contexts", self.contexts,
               "context ranks (CP) to try where a policy has them; empty = powers of two up to all columns");
        v.field("light_recompute", self.light_recompute,
                "backward computes norms and activation functions again instead of keeping their results");
    }
};

struct LengthSection {
    std::string source = "pretrain";
    std::string path;
    int64_t context = 131072;
    int64_t equal = 8192;
    int64_t rows = 64;
    int64_t long_from = 65536;
    double long_weight = 2;
    double short_weight = 0.9;
    double replaced = 0;
    int64_t lengthened_from = 65536;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("source", self.source, {"pretrain", "prolong", "equal", "file", "corpus", "shards"},
                 "models of two published corpora, one length, a list (one per line), the data of a training "
                 "configuration, or index files beside token shards");
        v.field("path", self.path, "of the file, the training configuration, or the shards' pattern");
        v.field("context", self.context, "tokens at which documents are cut");
        v.field("equal", self.equal, "source equal: tokens of every document");
        v.field("rows", self.rows, "source corpus: rows of `context` tokens that are read");
        v.field("long_from", self.long_from, "tokens from which a document of the source is a long one");
        v.field("long_weight", self.long_weight, "how often long documents appear, relative to the source");
        v.field("short_weight", self.short_weight, "how often the others do");
        v.field("replaced", self.replaced, "share of long documents that become as long as the context");
        v.field("lengthened_from", self.lengthened_from,
                "lengths are multiplied by context / this, rounded down, if that is more than 1; 0 = never");
    }
    LengthRules rules() const;
};

struct CadModelSection {
    double tolerance = CadOptions{}.tolerance;
    int64_t block = CadOptions{}.block;
    bool two_hop = CadOptions{}.two_hop;
    double byte_cap_gib = 0;
    double spread = CadOptions{}.spread;
    bool copy_local = CadOptions{}.copy_local;
    bool resend = CadOptions{}.resend;
    int64_t gradient_bytes = CostOptions{}.gradient_bytes;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("tolerance", self.tolerance, "largest load over the mean, minus 1, that a plan may leave");
        v.field("block", self.block, "rows: tasks begin and end at multiples of it");
        v.field("two_hop", self.two_hop, "keys that three or more ranks need leave their owner once");
        v.field("byte_cap_gib", self.byte_cap_gib,
                "GiB that a rank may send, and receive, for one block and direction of a nano batch; 0 = any");
        v.field("spread", self.spread, "time of the slowest rank's kernels over what its share of pairs says");
        v.field("copy_local", self.copy_local, "what stays on its rank is packed and unpacked too");
        v.field(
            "resend", self.resend,
            "backward sends queries and keys again and has its own plan; false: servers keep them (one stage only)");
        v.field("gradient_bytes", self.gradient_bytes, "bytes per element of keys' gradients on their way, 2 or 4");
    }
    CadOptions options() const;
};

struct SimulateConfig {
    SimulateSection simulate;
    SimulatedModelSection model;
    ClusterSection cluster;
    SimulatedParallelSection parallel;
    LengthSection lengths;
    CadModelSection cad;
    std::map<std::string, std::string> places;  // see read_config

    template <class Self, class F>
    static void visit_sections(Self& self, F&& f) {
        f("simulate", self.simulate), f("model", self.model), f("cluster", self.cluster);
        f("parallel", self.parallel), f("lengths", self.lengths), f("cad", self.cad);
    }

    // Throws Error (78) naming the key, and where it was set.
    void validate() const;
    int64_t columns() const { return cluster.nodes * cluster.gpus_per_node / (parallel.tensor * parallel.stages); }
    // The longest document there can be: nothing crosses a half of a micro batch.
    int64_t longest_document() const { return std::min(lengths.context, columns() * parallel.tokens / 2); }
    PolicySetting setting() const;
    // Opens the files it needs.
    DocumentLengths document_lengths() const;

  private:
    void check_values() const;
};

// Throws Error (78).
SimulateConfig load_simulate_config(const ConfigSources& sources);
std::string simulate_config_reference();

}  // namespace plimsoll
