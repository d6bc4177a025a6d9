// What a run says about itself: the settings at its start, a line per step, run.json.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/matmul.h"
#include "model/flops.h"
#include "train/cad_sample.h"
#include "train/machine.h"
#include "train/plan.h"
#include "train/trainer.h"

namespace plimsoll {

using nlohmann::json;

void Trainer::print_settings() {
    const ParameterTable table(network_, StageRange::whole(config_.model));
    const RunConfig& c = config_;
    const auto row = [&](const char* name, const std::string& value) { log_.line("  {:<14} {}", name, value); };
    log_.line("plimsoll {}", version_text());
    row("run", fmt::format("{} / {}, seed {}, in {}", c.run.name, c.run.variant, c.run.seed, directory_.path()));
    row("machine", fmt::format("{}, {} threads, {}", cpu_name(), exec_.threads, matmul_backend()));
    if (device_.is_gpu()) row("device", device_.describe());
    if (const std::string speed = speed_.describe(); !speed.empty()) row("peak", speed);
    const bool slow = !device_.is_gpu() && precision_.compute == DType::kBF16 && !matmul_bf16_is_fast();
    row("precision",
        fmt::format("{}{}", name_of(precision_.compute),
                    slow ? " (slower than fp32 here: this CPU does not compute in bf16; results are right)" : ""));
    row("model", fmt::format("{}: {} layers, C {}, {}/{} heads of {}, F {}, {}, {} norm, positions {}{}{}",
                             c.model.name, c.model.layers, c.model.channels, c.model.heads, c.model.key_heads(),
                             c.model.head_channels(), c.model.hidden(), c.model.activation, c.model.norm,
                             c.model.position, c.model.tied ? ", tied" : "", c.model.qk_norm ? ", QK-norm" : ""));
    row("attention", fmt::format("{}; extra column {}; gate {}; {}, window {}; {} placeholders",
                                 fmt::join(c.attention.weighting, ", "), fmt::join(c.attention.extra_column, ", "),
                                 fmt::join(c.attention.gate, ", "), fmt::join(c.attention.pattern, ", "),
                                 fmt::join(c.attention.window, ", "), c.attention.placeholders));
    if (c.attention.qk_source != std::vector<std::string>{"input"} || c.attention.query_key != "separate")
        row("", fmt::format("queries and keys from {}, matrices {}", fmt::join(c.attention.qk_source, ", "),
                            c.attention.query_key));
    if (c.attention.prefix > 1)
        row("", fmt::format("prefix-LM: the first {} tokens of a document see one another, and are no targets",
                            c.attention.prefix));
    const std::pair<const char*, const std::vector<std::string>*> parts[] = {
        {"gate on values", &c.attention.gate_value},
        {"gate on keys", &c.attention.gate_key},
        {"gate on queries", &c.attention.gate_query},
        {"gate on the projection", &c.attention.gate_projection},
        {"temperature of queries", &c.attention.query_temperature},
        {"temperature of values", &c.attention.value_temperature}};
    for (const auto& [what, kinds] : parts)
        if (std::ranges::any_of(*kinds, [](const std::string& kind) { return kind != "none"; }))
            row("", fmt::format("{} {}", what, fmt::join(*kinds, ", ")));
    if (c.attention.key_bias == "value") row("", "a bias on every key's scores, w . v of its value");
    if (c.attention.gate_input == "value") row("", "gates are maps of the tokens' values");
    if (c.attention.post_norm) row("", "norm on the attention branch");
    if (c.attention.layer_scale != 0)
        row("", fmt::format("scale of the attention branch, from {}", c.attention.layer_scale));
    if (c.attention.placeholders) row("", "placeholder positions carry no target; losses are over real targets only");
    if (c.loss.bos_decorrelation > 0)
        row("", fmt::format("loss.bos_decorrelation {}: squared cosines with the first token, beside the loss",
                            c.loss.bos_decorrelation));
    row("parameters", fmt::format("{} ({} without embeddings), {:.3g} FLOPs per token", table.count(),
                                  table.count_non_embedding(), flops_per_token(network_)));
    row("data", data_.describe());
    row("batch", fmt::format("{} tokens = {} x {} rows of {}", c.batch_tokens(), c.micro_batches(), c.train.micro_batch,
                             c.model.context));
    if (grid_.world.size() > 1)
        row("ranks",
            fmt::format("{}, {} micro batches each{}", grid_.world.size(), c.micro_batches() / grid_.data_ranks,
                        c.parallel.zero1 && grid_.data_ranks > 1 ? ", ZeRO-1" : ""));
    if (ranks_.size() > 1)
        for (size_t r = 0; r < ranks_.size(); ++r) row(fmt::format("  rank {}", r).c_str(), line_of(ranks_[r]));
    if (c.parallel.pipelined())
        row("pipeline", fmt::format("{} stages, {} ranges of layers each, {}", c.parallel.stages, c.parallel.chunks,
                                    c.parallel.schedule));
    if (c.cad.plans())
        row("attention of", fmt::format("{} ranks, {}; tolerance {}{}", grid_.world.size() * c.parallel.virtual_ranks,
                                        c.cad.mode == "on" ? "together" : "each its own (plans only)", c.cad.tolerance,
                                        c.cad.ping_pong ? ", micro batches two at a time" : ""));
    row("steps", fmt::format("{}, {} tokens", max_steps_, max_steps_ * c.batch_tokens()));
    row("optimizer", fmt::format("{} lr {} {}, warmup {}, decay {} of {}, clip {}", c.optimizer.kind, c.optimizer.lr,
                                 c.schedule.kind, c.schedule.warmup_steps, c.optimizer.weight_decay, c.optimizer.decay,
                                 c.train.clip));
    log_.write(arena_table(*replica_.chunks().front()));
}

void Trainer::write_run_json(const char* status) {
    const ParameterTable table(network_, StageRange::whole(config_.model));
    json vocab;
    if (network_.total_vocab() <= 512)
        for (int32_t id = 0; id < network_.total_vocab(); ++id) vocab.push_back(data_.label(id));
    json oracle;
    if (const BigramBackcopy* task = data_.bigram_backcopy()) {
        const BigramBackcopy::Floors floors = task->floors(config_.scored_tokens().end, config_.scored_tokens().begin);
        oracle = {{"bigram_risk", floors.bigram},
                  {"copy_risk", floors.trigger_fraction > 0 ? json(floors.copy) : json()}};
    }
    const auto number = [](std::optional<double> value) { return value ? json(*value) : json(); };
    const double per_step = steps_here_ ? train_seconds_ / static_cast<double>(steps_here_) : 0;
    const json build = build_info();
    constexpr const char* kReasons[kStops] = {nullptr, nullptr, "SIGTERM or SIGINT", "SIGUSR1", "time limit"};
    const json stopped_by = stop_ == Stop::kNo ? json() : json(kReasons[static_cast<size_t>(stop_)]);
    directory_.write_json(
        "run.json", {{"name", config_.run.name},
                     {"variant", config_.run.variant},
                     {"command", options_.command},
                     {"commit", build.at("commit")},
                     {"build", build},
                     {"cpu", cpu_name()},
                     {"threads", exec_.threads},
                     {"ranks", grid_.world.size()},
                     {"device", device_.describe()},
                     {"card_tflops", number(speed_.card())},
                     {"measured_peak_tflops", number(speed_.measured())},
                     {"precision", name_of(precision_.compute)},
                     {"seed", config_.run.seed},
                     {"data_hash", state_.data_hash},
                     {"tokenizer_hash", state_.tokenizer_hash},
                     {"data", data_.describe()},
                     {"params", table.count()},
                     {"params_non_embedding", table.count_non_embedding()},
                     {"flops_per_token", flops_per_token(network_)},
                     {"qk_norm", config_.model.qk_norm},
                     {"placeholders", config_.attention.placeholders},
                     {"steps", state_.step},
                     {"max_steps", max_steps_},
                     {"tokens_per_second", per_step > 0 ? static_cast<double>(config_.batch_tokens()) / per_step : 0},
                     {"ms_per_step", 1e3 * per_step},
                     {"seconds", elapsed()},
                     {"probe_seconds", probe_seconds_},
                     {"status", status},
                     {"stopped_by", stopped_by},
                     {"oracle", oracle},
                     {"vocab", vocab},
                     {"layers", config_.model.layers},
                     {"heads", config_.model.heads},
                     {"context", config_.model.context}});
}

namespace {

// The share of all stages' time in which they did not compute.
double bubble_of(const std::vector<StageTimes>& stages) {
    double computing = 0, slowest = 0;
    for (const StageTimes& times : stages) computing += times.computing(), slowest = std::max(slowest, times.total);
    return 1 - computing / (static_cast<double>(stages.size()) * std::max(slowest, 1e-9));
}

}  // namespace

void Trainer::report_step(const StepResult& r, double step_seconds) {
    json line{{"step", state_.step},
              {"loss", r.loss},
              {"norm", r.norm},
              {"lr", r.lr},
              {"tokens", state_.tokens},
              {"seconds", elapsed()},
              {"checkpoint_failures", checkpointer_.failures()}};
    if (const std::string& why = replica_.why_no_graphs(); !why.empty() && !told_of_graphs_) {
        told_of_graphs_ = true;
        log_.line("warning: a part of the step is submitted op by op, not as a CUDA graph, which costs some speed: {}",
                  why);
    }
    if (config_.loss.bos_decorrelation > 0) line["bos_decorrelation"] = r.decorrelation;
    std::string pipeline;
    if (!stage_times_.empty()) {
        line["bubble"] = bubble_of(stage_times_);
        for (const StageTimes& times : stage_times_)
            line["stage_ms"].push_back({1e3 * times.forward, 1e3 * times.backward, 1e3 * times.weight});
        pipeline = fmt::format(" bubble {:.0f} %", 100 * bubble_of(stage_times_));
    }
    if (grid_.world.size() > 1) {
        line["sent_bytes"] = r.traffic.bytes;
        line["wait_ms"] = 1e3 * r.traffic.wait_seconds;
    }
    std::string balance;
    if (const CadBalance* cad = replica_.balance()) {
        const CommStats moved = grid_.attention ? grid_.attention->stats(CommKind::kAllToAll) : CommStats{};
        const double exposed = moved.wait_seconds - attention_before_.wait_seconds;
        line["cad"] = {{"before", cad->before()},
                       {"after", cad->after()},
                       {"planned_bytes", cad->bytes},
                       {"most_bytes", cad->most_bytes},
                       {"sent_bytes", moved.bytes - attention_before_.bytes},
                       {"exposed_ms", 1e3 * exposed},
                       {"plan_ms", 1e3 * cad->seconds}};
        balance = fmt::format(" attention {:.2f} to {:.2f}", cad->before(), cad->after());
        if (grid_.attention)
            balance += fmt::format(", {:.1f} MiB, {:.1f} ms exposed", static_cast<double>(cad->bytes) / (1 << 20),
                                   1e3 * exposed);
        attention_before_ = moved;
    }
    if (!straggler_.empty()) log_.line("{}", std::exchange(straggler_, {}));
    if (r.verdict != Verdict::kUpdate) {
        line["skipped"] = health_.reason();
        log_.line("warning: step {}: {}; not updated ({} steps so far)", state_.step, health_.reason(),
                  health_.skipped() + health_.rollbacks());
    }
    if (replica_.attention().sampled())
        directory_.append("cad.jsonl", cad_sample(state_.step, replica_.attention(), grid_.world));
    const std::string held = directory_.append("metrics.jsonl", line);
    if (!held.empty()) log_.line("warning: {}; lines are held in memory until it works", held);
    const double per_step = train_seconds_ / static_cast<double>(steps_here_);
    const double share = static_cast<double>(state_.step) / static_cast<double>(max_steps_);
    const double tokens_per_second = static_cast<double>(r.tokens) / step_seconds;
    const std::string utilization = speed_.utilization(flops_per_token(network_) * tokens_per_second);
    const bool on_screen = state_.step % config_.train.log_every == 0 || state_.step == 1 || state_.step == max_steps_;
    log_.progress(fmt::format("step {}/{} loss {:.4f} norm {:.3f} lr {:.2e} {:.1f} ms {:.0f} tokens/s{}{}{} ETA {}",
                              state_.step, max_steps_, r.loss, r.norm, r.lr, 1e3 * step_seconds, tokens_per_second,
                              utilization.empty() ? "" : " " + utilization, pipeline, balance,
                              duration(per_step * static_cast<double>(max_steps_ - state_.step))),
                  share, on_screen);
}

}  // namespace plimsoll
