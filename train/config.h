// A run's configuration: every section, read from TOML, overridden from the command line, saved resolved.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "data/config.h"
#include "data/layout.h"
#include "model/config.h"
#include "train/config_fields.h"
#include "train/schedule.h"

namespace plimsoll {

struct RunSection {
    std::string name = "run";
    std::string variant = "softmax";
    std::string dir;
    int64_t seed = 42;
    int64_t threads = 0;
    std::string device = "auto";
    std::string precision = "auto";
    bool measure_peak = true;
    bool graphs = true;
    std::string gemm_cache = "auto";

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("name", self.name, "name of the experiment, for logs and the report");
        v.field("variant", self.variant, "name of the attention variant, for logs and the report");
        v.field("dir", self.dir, "directory of the run's output; empty = runs/NAME/VARIANT");
        v.field("seed", self.seed, "seed of initial weights and data order");
        v.field("threads", self.threads, "CPU threads; 0 = all this process may use. Never changes results in fp32");
        v.choice("device", self.device, {"auto", "cpu", "cuda"},
                 "where the model runs; auto = a GPU if this build and machine have one");
        v.choice("precision", self.precision, {"auto", "fp32", "bf16", "fp64"},
                 "matmul operands and activations; auto = bf16 on a GPU and where the CPU computes in it (AMX; AMD's "
                 "AVX512_BF16). fp64, on the CPU only and slow: for comparing ways to compute the same");
        v.field("measure_peak", self.measure_peak,
                "on a GPU: multiply some large matrices at the start, and say how near the card's data sheet that is");
        v.field("graphs", self.graphs, "on a GPU: micro batches and updates as CUDA graphs. Never changes results");
        v.field("gemm_cache", self.gemm_cache,
                "on a GPU: file that keeps which algorithm of cuBLASLt was fastest for each product; what it lacks is "
                "measured in the first step. auto = gemm_algorithms.txt beside the run's directory; empty = the "
                "library's first choice");
    }
};

struct TrainSection {
    int64_t micro_batch = 8;
    std::string recompute = "none";
    int64_t batch_tokens = 0;
    int64_t max_steps = 0;
    int64_t max_tokens = 0;
    double clip = 1.0;
    int64_t eval_every = 0;
    int64_t eval_samples = 0;
    int64_t save_every = 0;
    int64_t keep = 2;
    int64_t keep_every = 0;
    bool async_save = true;
    int64_t log_every = 10;
    int64_t shared_placeholders = 0;
    double max_seconds = 0;
    int64_t max_restarts = 5;
    int64_t sample_every = 0;
    std::string sample_prompt = "\n";
    int64_t sample_tokens = 128;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("micro_batch", self.micro_batch,
                "rows of model.context tokens computed at once; sets the memory needed");
        v.choice("recompute", self.recompute, {"none", "light", "block"},
                 "what backward computes again instead of keeping: nothing; norms and activations (little time); whole "
                 "blocks (a third more time, memory almost independent of depth). Never changes results");
        v.field("batch_tokens", self.batch_tokens,
                "tokens per optimizer step, a multiple of micro_batch x context; 0 = one micro batch");
        v.field("max_steps", self.max_steps, "optimizer steps; 0 = from max_tokens");
        v.field("max_tokens", self.max_tokens, "tokens to train on, rounded up to whole steps; 0 = from max_steps");
        v.field("clip", self.clip, "largest global gradient norm; 0 = no clipping");
        v.field("eval_every", self.eval_every, "steps between evaluations; 0 = at step 0 and at the end only");
        v.field("eval_samples", self.eval_samples, "validation rows per evaluation; 0 = the whole split");
        v.field("save_every", self.save_every, "steps between checkpoints; 0 = at the end and on a signal only");
        v.field("keep", self.keep, "newest checkpoints kept, beside the best");
        v.field("keep_every", self.keep_every, "checkpoints of steps this many apart are kept for good; 0 = none");
        v.field("async_save", self.async_save,
                "write checkpoints beside training, from a copy in host memory. Never changes results");
        v.field("log_every", self.log_every, "steps between lines on a screen that is no terminal; log.txt has all");
        v.field("shared_placeholders", self.shared_placeholders,
                "largest attention.placeholders among the runs to compare: all are scored on the targets they share");
        v.field("max_seconds", self.max_seconds,
                "seconds from its start until a process of the run has saved and ended (status 85); 0 = until the end "
                "of its SLURM job, where SLURM_JOB_END_TIME says that, else any");
        v.field("max_restarts", self.max_restarts,
                "starts in a row that may end without a newer checkpoint than they found; the next is refused (status "
                "70). 0 = any number");
        v.field("sample_every", self.sample_every,
                "steps between texts that the model writes, to the log and samples.jsonl; 0 = none. Never changes "
                "results");
        v.field("sample_prompt", self.sample_prompt, "what they go on from");
        v.field("sample_tokens", self.sample_tokens, "their length, within model.context");
    }
};

// How ranks share a run. Never changes what is computed, but the order of sums.
struct ParallelSection {
    int64_t stages = 1;
    int64_t chunks = 1;
    std::string schedule = "1f1b";
    int64_t in_flight = 0;
    bool zero1 = true;
    int64_t virtual_ranks = 1;
    double timeout_seconds = 300;
    bool share_devices = false;

    bool pipelined() const { return stages * chunks > 1; }

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field(
            "stages", self.stages,
            "pipeline stages, each a rank of its own; data ranks = ranks / stages share the micro batches of a step");
        v.field("chunks", self.chunks,
                "ranges of layers per stage, of the schedule interleaved; with one stage: computes what so many stages "
                "would, to the bit");
        v.choice("schedule", self.schedule, {"1f1b", "interleaved", "zb-h1", "zb-greedy", "same-phase"},
                 "order of a pipeline's forwards and backwards. Never changes results");
        v.field("in_flight", self.in_flight,
                "schedules zb-greedy and same-phase: micro batches whose activations a stage may hold; 0 = as 1f1b "
                "holds, and as many as it takes");
        v.field("zero1", self.zero1,
                "each rank holds the optimizer state of, and updates, its share of the parameters (ZeRO-1)");
        v.field("virtual_ranks", self.virtual_ranks,
                "one process: sum gradients as this many ranks would, to the bit; for comparing with a run of ranks");
        v.field("timeout_seconds", self.timeout_seconds,
                "seconds a rank waits for others before it ends the run, saying for whom; rank 0 may take thirty "
                "minutes to evaluate and probe");
        v.field("share_devices", self.share_devices,
                "ranks of one machine may use one GPU; else that is an error, as it is a launcher's slip more often "
                "than a wish");
    }
};

// Core-attention disaggregation: long documents make attention unequal between ranks, everything else is equal.
struct CadSection {
    std::string mode = "off";
    double tolerance = 0.02;
    double min_gain = 0.02;
    double byte_cap_mib = 0;
    bool two_hop = true;
    bool ping_pong = false;
    std::vector<int64_t> speeds;
    bool record = true;

    bool plans() const { return mode != "off"; }

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice("mode", self.mode, {"off", "plan_only", "on"},
                 "who computes core attention: off = the rank that owns the tokens; plan_only = that too, and each "
                 "step says how equal it could be; on = ranks in equal parts (in a pipeline with schedule same-phase)");
        v.field("tolerance", self.tolerance, "how much more query-key pairs than its share a rank may compute");
        v.field("min_gain", self.min_gain,
                "a plan that lowers the largest part by less than this share moves nothing instead");
        v.field("byte_cap_mib", self.byte_cap_mib,
                "MiB a rank may send, or receive, for a layer; the tolerance grows where that takes more; 0 = any");
        v.field("two_hop", self.two_hop, "keys that three or more ranks need leave their owner once");
        v.field("ping_pong", self.ping_pong,
                "micro batches two at a time: one computes while the other's core attention travels. Changes results "
                "only where embedding and head share a table (the order of sums)");
        v.field("speeds", self.speeds, "of the ranks, relative to each other, in any unit; empty = equal");
        v.field("record", self.record,
                "steps 1, 2, 5, 10, 20, ... leave a plan and its timeline in cad.jsonl, for the report");
    }
};

// What a run does about bad steps and ranks that differ.
struct HealthSection {
    int64_t max_skips = 3;
    int64_t max_rollbacks = 0;
    double spike = 0;
    int64_t window = 128;
    int64_t hash_every = 0;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("max_skips", self.max_skips,
                "bad steps in a row (loss or gradient norm NaN or infinite, or a spike) whose update is left out; one "
                "more ends the run, or rolls it back");
        v.field("max_rollbacks", self.max_rollbacks,
                "times a run goes back to its newest checkpoint, and on with the data after the bad steps");
        v.field("spike", self.spike,
                "standard deviations above the last good steps' mean from which loss or gradient norm are bad; 0 = any "
                "finite value is good");
        v.field("window", self.window, "good steps whose mean and deviation health.spike refers to");
        v.field("hash_every", self.hash_every,
                "steps between comparisons of the parameters of ranks that hold the same ones; 0 = never");
    }
};

struct OptimizerSection {
    std::string kind = "adamw";
    double lr = 3e-4;
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    std::string decay = "matrices";
    double momentum = 0.9;
    double muon_momentum = 0.95;
    std::string muon_scale = "rms";
    std::vector<ParameterGroup> groups;
    std::string rounding = "nearest";

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.choice(
            "kind", self.kind, {"adamw", "sgd", "muon", "orthoadam"},
            "AdamW; SGD with momentum; Muon for the linear weights of blocks, AdamW for embeddings, head, gates and "
            "vectors; or OrthoAdam: matrices by Adam in a random orthogonal basis, vectors by AdamW");
        v.field("lr", self.lr, "peak learning rate");
        v.field("beta1", self.beta1, "AdamW: decay of the first moment");
        v.field("beta2", self.beta2, "AdamW: decay of the second moment");
        v.field("eps", self.eps, "AdamW: added to the root of the second moment");
        v.field("weight_decay", self.weight_decay, "decoupled weight decay (SGD: added to the gradient)");
        v.choice("decay", self.decay, {"matrices", "all"},
                 "what decays: linear weights and embeddings, or everything but sink logits");
        v.field("momentum", self.momentum, "SGD: momentum");
        v.field("muon_momentum", self.muon_momentum, "Muon: momentum (Nesterov's)");
        v.choice(
            "muon_scale", self.muon_scale, {"rms", "spectral"},
            "Muon: what the learning rate of a matrix (out, in) is multiplied by: rms, 0.2 sqrt(max(out, in)), so "
            "that AdamW's rate and decay fit; spectral, sqrt(max(1, out / in)), whose rate is some 50 times AdamW's");
        v.list("groups", self.groups,
               "parameters with their own rate or decay: tables of match (patterns of names with * and ?), lr_scale "
               "and weight_decay; the first that matches counts");
        v.choice("rounding", self.rounding, {"nearest", "stochastic"},
                 "of the bf16 copy of the parameters that products read; stochastic: by chance, right on average");
    }
};

struct ProbeSection {
    bool enabled = true;
    int64_t samples = 16;
    int64_t tokens = 0;
    int64_t map_tokens = 64;
    double max_share = 0.05;

    template <class Self, class Visitor>
    static void visit(Self& self, Visitor&& v) {
        v.field("enabled", self.enabled, "measure sinks, drains, peaks and activations at log-spaced steps");
        v.field("samples", self.samples, "validation rows per probe");
        v.field("tokens", self.tokens, "leading tokens of each row that are probed; 0 = all");
        v.field("map_tokens", self.map_tokens, "tokens of the attention maps kept for the report");
        v.field("max_share", self.max_share,
                "share of the run's time probes may take; a log-spaced probe that would exceed it is left out");
    }
};

struct RunConfig {
    RunSection run;
    ModelConfig model;
    AttentionConfig attention;
    LossConfig loss;
    DataConfig data;
    TrainSection train;
    ParallelSection parallel;
    CadSection cad;
    HealthSection health;
    OptimizerSection optimizer;
    ScheduleSection schedule;
    ProbeSection probes;
    std::map<std::string, std::string> places;  // "model.layers": "run.toml:3:10", where load_config found it last

    // Calls f(section name, section) for each.
    template <class Self, class F>
    static void visit_sections(Self& self, F&& f) {
        f("run", self.run), f("model", self.model), f("attention", self.attention), f("loss", self.loss);
        f("data", self.data), f("train", self.train), f("parallel", self.parallel), f("cad", self.cad);
        f("health", self.health), f("optimizer", self.optimizer), f("schedule", self.schedule);
        f("probes", self.probes);
    }

    // Checks that need no file: throws Error (78) naming the key, and where it was set.
    void validate() const;
    int64_t tokens_per_micro_batch() const { return train.micro_batch * model.context; }
    int64_t batch_tokens() const { return train.batch_tokens ? train.batch_tokens : tokens_per_micro_batch(); }
    int64_t micro_batches() const { return batch_tokens() / tokens_per_micro_batch(); }
    // Micro batches computed in turns.
    int lanes() const { return cad.ping_pong ? 2 : 1; }
    // Real tokens of a row that carry targets, in every run compared; of a prefix-LM those behind its prefix.
    ScoredTokens scored_tokens() const {
        return {.begin = std::max<int64_t>(0, attention.prefix - 1 - attention.placeholders),
                .end = model.context - std::max(attention.placeholders, train.shared_placeholders)};
    }
    int64_t max_steps() const;
    std::string directory() const;
    // run.gemm_cache as a path; empty for none.
    std::string gemm_cache() const;

  private:
    void check_values() const;
};

// See read_config.
RunConfig load_config(const ConfigSources& sources);

// The configuration of a text that resolved_toml() wrote; `name` opens messages. Throws Error (78) as read_config does,
// and for an include.
RunConfig parse_config(const std::string& text, const std::string& name);

// The whole configuration as TOML, every key with its meaning.
std::string resolved_toml(const RunConfig& config);

// For --help: every key with meaning and default.
std::string config_reference();

// The keys whose values differ, with both. The pointers lead into the configurations.
std::vector<std::pair<ConfigField, ConfigField>> differing_fields(RunConfig& here, RunConfig& there);

// The keys whose values differ, as "model.layers: 2 here, 4 there".
std::vector<std::string> config_differences(const RunConfig& here, const RunConfig& there);

}  // namespace plimsoll
