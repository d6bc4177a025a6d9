#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "kernels/matmul.h"
#include "model/flops.h"
#include "train/machine.h"
#include "train/plan.h"
#include "train/signals.h"

namespace plimsoll {
namespace {

using nlohmann::json;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

LoaderOptions training_options(const RunConfig& config) {
    return {.T = config.model.context,
            .placeholders = config.attention.placeholders,
            .shared_placeholders = 0,
            .seed = static_cast<uint64_t>(config.run.seed)};
}

std::unique_ptr<Loader> validation_loader(const RunConfig& config) {
    if (!config.data.has_validation()) return nullptr;
    LoaderOptions options = training_options(config);
    options.shared_placeholders = config.train.shared_placeholders;
    return std::make_unique<Loader>(config.data, Split::kValidation, options);
}

const RunConfig& validated(const RunConfig& config) {
    config.validate();
    return config;
}

int threads_for(const RunConfig& config) {
    return config.run.threads ? static_cast<int>(config.run.threads) : usable_threads();
}

// Positions of a row that carry targets in every run compared.
int64_t scored_tokens(const RunConfig& config) {
    return config.model.context - std::max(config.attention.placeholders, config.train.shared_placeholders);
}

std::string data_hash(const Loader& data) {
    return fmt::format("{:016x}", data.content_hash());
}

json number_or_null(std::optional<double> value) {
    return value ? json(*value) : json();
}

// Copies of device tensors in host memory, and the tensors there.
struct HostCopies {
    std::vector<HostCopy> copies;
    std::vector<Tensor> tensors;

    HostCopies(const std::vector<Tensor>& buffers, const Exec& exec) {
        for (const Tensor& buffer : buffers) {
            copies.emplace_back(buffer, exec);
            tensors.push_back(copies.back().tensor());
        }
    }
};

}  // namespace

Trainer::Trainer(const RunConfig& config, const TrainOptions& options)
    : config_(validated(config)),
      options_(options),
      max_steps_(config.max_steps()),
      device_(config.run.device, threads_for(config)),
      exec_(device_.exec()),
      precision_{compute_dtype(config.run.precision, exec_.device)},
      data_(config.data, Split::kTrain, training_options(config)),
      validation_(validation_loader(config)),
      network_{config.model, config.attention, config.loss, data_.vocab_size()},
      directory_(config, options.resume),
      log_(directory_.file("log.txt")),
      checkpointer_(directory_.path()),
      model_(network_, StageRange::whole(config.model), config.tokens_per_micro_batch(), precision_),
      optimizer_(config.optimizer, model_.table(), precision_),
      on_device_(config.tokens_per_micro_batch(), exec_) {
    const MemoryPlan memory = plan_memory(config_, network_, precision_);
    if (!device_.is_gpu() && !memory.fits())
        fail_input(
            "this run needs {:.0f} MiB, {:.0f} MiB are available; the largest train.micro_batch that fits is {} "
            "(plimsoll "
            "plan CONFIG lists what takes how much)",
            static_cast<double>(memory.bytes) / (1 << 20), static_cast<double>(memory.available) / (1 << 20),
            memory.largest_micro_batch);
    if (data_.samples_available() >= 0) {
        const int64_t steps = data_.samples_available() / (config_.train.micro_batch * config_.micro_batches());
        if (steps == 0)
            fail_input("data.end = \"stop\": {} training rows are fewer than the {} of one step",
                       data_.samples_available(), config_.train.micro_batch * config_.micro_batches());
        max_steps_ = std::min(max_steps_, steps);
    }
    model_.allocate(exec_.device);
    optimizer_.allocate(exec_.device);
    initialize(model_.parameters(), model_.table(), static_cast<uint64_t>(config_.run.seed), exec_);
    state_.config = resolved_toml(config_);
    state_.data_hash = data_hash(data_);
    if (directory_.existed()) resume_from_checkpoint();
    model_.refresh_working(exec_);
    if (validation_ && config_.probes.enabled)
        probes_ = std::make_unique<Probes>(config_.probes, network_, *validation_, config_.train.micro_batch);
}

std::vector<Tensor> Trainer::state_buffers() const {
    std::vector<Tensor> buffers{model_.parameters()};
    for (const auto& [name, buffer] : optimizer_.state()) buffers.push_back(buffer);
    return buffers;
}

std::vector<CheckpointTensor> Trainer::checkpoint_tensors(const std::vector<Tensor>& buffers) const {
    std::vector<std::string> names{"parameters"};
    for (const auto& [name, buffer] : optimizer_.state()) names.push_back(name);
    std::vector<CheckpointTensor> tensors;
    for (size_t b = 0; b < buffers.size(); ++b)
        for (size_t i = 0; i < model_.table().entries().size(); ++i)
            tensors.push_back({names[b] + "/" + model_.table().entries()[i].name,
                               model_.table().view(buffers[b], static_cast<int>(i))});
    return tensors;
}

// The probes' arithmetic runs on the host. A GPU run has a second model there, for the rows they look at.
Transformer& Trainer::probed_model() {
    if (!device_.is_gpu()) return model_;
    const Exec host{.threads = exec_.threads};
    if (!host_model_) {
        host_model_ = std::make_unique<Transformer>(network_, StageRange::whole(config_.model),
                                                    config_.tokens_per_micro_batch(), precision_);
        host_model_->allocate();
    }
    copy_tensor(host_model_->parameters(), model_.parameters(), exec_);
    host_model_->refresh_working(host);
    return *host_model_;
}

void Trainer::resume_from_checkpoint() {
    const json info = directory_.read_json("run.json");
    const std::vector<int64_t> steps = checkpointer_.steps();
    for (size_t i = steps.size(); i-- > 0;) {
        try {
            const TrainingState saved = checkpointer_.read_state(steps[i]);
            const std::vector<Tensor> buffers = state_buffers();
            const HostCopies host(buffers, exec_);
            checkpointer_.load(steps[i], checkpoint_tensors(host.tensors));
            if (device_.is_gpu())
                for (size_t b = 0; b < buffers.size(); ++b) copy_tensor(buffers[b], host.tensors[b], exec_);
            if (saved.data_hash != state_.data_hash)
                throw Error(ExitCode::kBadInput,
                            fmt::format("step {} was trained on data with hash {}, the data here has {}; "
                                        "restore the data, or start again with --fresh",
                                        saved.step, saved.data_hash, state_.data_hash));
            const std::string config = state_.config;
            state_ = saved;
            state_.config = config;
            finished_ = info.is_object() && info.value("status", "") == "done" && state_.step >= max_steps_;
            if (!finished_) {
                log_.line("resume: step {} of {}", state_.step, max_steps_);
                for (const char* name : {"metrics.jsonl", "evals.jsonl", "probes.jsonl"})
                    directory_.truncate_after(name, state_.step);
            }
            return;
        } catch (const Error& error) {
            if (std::string_view(error.what()).find("was trained on data") != std::string_view::npos) throw;
            log_.line("resume: {}", error.what());
        }
    }
    if (!steps.empty())
        fail_input("'{}' holds {} checkpoints, none of them whole; --fresh starts again from nothing",
                   directory_.file("checkpoints"), steps.size());
    for (const char* name : {"metrics.jsonl", "evals.jsonl", "probes.jsonl"}) directory_.truncate_after(name, -1);
}

void Trainer::print_settings() {
    const RunConfig& c = config_;
    const auto row = [&](const char* name, const std::string& value) { log_.line("  {:<14} {}", name, value); };
    log_.line("plimsoll {}", version_text());
    row("run", fmt::format("{} / {}, seed {}, in {}", c.run.name, c.run.variant, c.run.seed, directory_.path()));
    row("machine", fmt::format("{}, {} threads, {}", cpu_name(), exec_.threads, matmul_backend()));
    if (device_.is_gpu()) row("device", device_.describe());
    const bool slow = !device_.is_gpu() && precision_.compute == DType::kBF16 && !matmul_bf16_is_fast();
    row("precision",
        fmt::format("{}{}", name_of(precision_.compute),
                    slow ? " (slower than fp32 here: this CPU does not compute in bf16; results are right)" : ""));
    row("model", fmt::format("{}: {} layers, C {}, {}/{} heads of {}, F {}, {}, {} norm, positions {}{}{}",
                             c.model.name, c.model.layers, c.model.channels, c.model.heads, c.model.key_heads(),
                             c.model.head_channels(), c.model.hidden(), c.model.activation, c.model.norm,
                             c.model.position, c.model.tied ? ", tied" : "", c.model.qk_norm ? ", QK-norm" : ""));
    row("attention",
        fmt::format("{}; extra column {}; gate {}; window {}; {} placeholders", fmt::join(c.attention.weighting, ", "),
                    fmt::join(c.attention.extra_column, ", "), fmt::join(c.attention.gate, ", "),
                    fmt::join(c.attention.window, ", "), c.attention.placeholders));
    if (c.attention.placeholders) row("", "placeholder positions carry no target; losses are over real targets only");
    row("parameters", fmt::format("{} ({} without embeddings), {:.3g} FLOPs per token", model_.table().count(),
                                  model_.table().count_non_embedding(), flops_per_token(network_)));
    row("data", data_.describe());
    row("batch", fmt::format("{} tokens = {} x {} rows of {}", c.batch_tokens(), c.micro_batches(), c.train.micro_batch,
                             c.model.context));
    row("steps", fmt::format("{}, {} tokens", max_steps_, max_steps_ * c.batch_tokens()));
    row("optimizer", fmt::format("{} lr {} {}, warmup {}, decay {} of {}, clip {}", c.optimizer.kind, c.optimizer.lr,
                                 c.schedule.kind, c.schedule.warmup_steps, c.optimizer.weight_decay, c.optimizer.decay,
                                 c.train.clip));
    log_.write(arena_table(model_, optimizer_));
}

StepResult Trainer::train_step() {
    const int64_t rows = config_.train.micro_batch, micro_batches = config_.micro_batches();
    const int64_t first = options_.overfit_batch ? 0 : state_.samples;
    LossSums sums;
    StepResult result;
    for (int64_t m = 0; m < micro_batches; ++m) {
        const Batch batch = data_.load(first + m * rows, rows);
        const ModelInput input = on_device_.put(batch);
        const LossSums part = model_.forward(core_, input, exec_);
        model_.backward(
            core_, input, m == 0 ? Write::kOverwrite : Write::kAccumulate, [](int64_t) {}, exec_);
        sums.nll += part.nll, sums.z += part.z, sums.scored += part.scored;
        result.tokens += static_cast<int64_t>(batch.tokens.size());
    }
    const double mean = 1.0 / static_cast<double>(std::max<int64_t>(1, sums.scored));
    result.loss = (sums.nll + sums.z) * mean;
    result.norm = gradient_norm(model_, exec_) * mean;
    result.lr = learning_rate(config_.schedule, config_.optimizer.lr, state_.step, max_steps_);
    if (!std::isfinite(result.loss) || !std::isfinite(result.norm))
        throw Error(ExitCode::kInternal,
                    fmt::format("step {}: loss {}, gradient norm {}; not updated. Lower optimizer.lr, or look "
                                "at the last lines of {}",
                                state_.step + 1, result.loss, result.norm, directory_.file("metrics.jsonl")));
    // As torch.nn.utils.clip_grad_norm_, with its 1e-6.
    const double clip = config_.train.clip;
    const double clipped = clip > 0 && result.norm > clip ? clip / (result.norm + 1e-6) : 1.0;
    optimizer_.step(model_, result.lr, mean * clipped, state_.step + 1, exec_);
    state_.step += 1;
    state_.samples += rows * micro_batches;
    state_.tokens += result.tokens;
    return result;
}

double Trainer::elapsed() const {
    return state_.seconds + (now() - started_);
}

void Trainer::check_initial_loss(const Evaluation& evaluation) {
    const double uniform = std::log(static_cast<double>(network_.total_vocab()));
    if (std::abs(evaluation.loss - uniform) > 0.1 * uniform)
        log_.line(
            "warning: loss before training is {:.3f}, a uniform guess over {} ids gives {:.3f}; look at model.init_std "
            "and the "
            "data",
            evaluation.loss, network_.total_vocab(), uniform);
}

void Trainer::evaluate_and_keep(bool last) {
    const bool due =
        state_.step == 0 || last || (config_.train.eval_every && state_.step % config_.train.eval_every == 0);
    if (!validation_ || !due || last_evaluated_ == state_.step) return;
    last_evaluated_ = state_.step;
    const Evaluation e = evaluate(model_, core_, *validation_, config_.train.eval_samples, config_.train.micro_batch,
                                  scored_tokens(config_), exec_);
    directory_.append("evals.jsonl", {{"step", state_.step},
                                      {"tokens", state_.tokens},
                                      {"seconds", elapsed()},
                                      {"loss", e.loss},
                                      {"scored", e.scored},
                                      {"bigram_risk", number_or_null(e.bigram_risk)},
                                      {"copy_risk", number_or_null(e.copy_risk)}});
    std::string risks;
    if (e.bigram_risk && e.copy_risk)
        risks = fmt::format(", bigram risk {:.4f}, back-copy risk {:.4f}", *e.bigram_risk, *e.copy_risk);
    log_.line("eval {}/{}: loss {:.4f}{}", state_.step, max_steps_, e.loss, risks);
    if (state_.step == 0) check_initial_loss(e);
    if (state_.step > 0 && (state_.best_loss < 0 || e.loss < state_.best_loss)) {
        state_.best_loss = e.loss;
        state_.best_step = state_.step;
        save();
    }
}

void Trainer::probe(bool last) {
    if (!probes_ || last_probed_ == state_.step) return;
    const bool always = last || state_.step == 0;
    if (!always) {
        if (!is_probe_step(state_.step)) return;
        const double expected =
            train_seconds_ / static_cast<double>(std::max<int64_t>(1, steps_here_)) * static_cast<double>(max_steps_);
        if (probe_seconds_ + last_probe_seconds_ > config_.probes.max_share * expected) return;
    }
    last_probed_ = state_.step;
    const double start = now();
    Transformer& model = probed_model();
    const Exec host{.threads = exec_.threads};
    json line = probes_->measure(model, core_, host);
    line["step"] = state_.step;
    line["tokens"] = state_.tokens;
    directory_.append("probes.jsonl", line);
    if (last) {
        json maps = probes_->attention_maps(model, core_, *validation_, host);
        maps["step"] = state_.step;
        directory_.write_json("attention_maps.json", maps);
    }
    last_probe_seconds_ = now() - start;
    probe_seconds_ += last_probe_seconds_;
}

void Trainer::save() {
    TrainingState state = state_;
    state.seconds = elapsed();
    const double start = now();
    const HostCopies host(state_buffers(), exec_);
    const std::string folder = checkpointer_.save(state, checkpoint_tensors(host.tensors), config_.train.keep);
    log_.line("saved {} in {:.1f} s", folder, now() - start);
}

void Trainer::write_run_json(const char* status) {
    json vocab;
    if (network_.total_vocab() <= 512)
        for (int32_t id = 0; id < network_.total_vocab(); ++id) vocab.push_back(data_.label(id));
    json oracle;
    if (const BigramBackcopy* task = data_.bigram_backcopy())
        oracle = {{"bigram_risk", task->floors(scored_tokens(config_)).bigram}, {"copy_risk", 0.0}};
    const double per_step = steps_here_ ? train_seconds_ / static_cast<double>(steps_here_) : 0;
    const json build = build_info();
    directory_.write_json(
        "run.json", {{"name", config_.run.name},
                     {"variant", config_.run.variant},
                     {"command", options_.command},
                     {"commit", build.at("commit")},
                     {"build", build},
                     {"cpu", cpu_name()},
                     {"threads", exec_.threads},
                     {"precision", name_of(precision_.compute)},
                     {"seed", config_.run.seed},
                     {"data_hash", state_.data_hash},
                     {"data", data_.describe()},
                     {"params", model_.table().count()},
                     {"params_non_embedding", model_.table().count_non_embedding()},
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
                     {"oracle", oracle},
                     {"vocab", vocab},
                     {"layers", config_.model.layers},
                     {"heads", config_.model.heads},
                     {"context", config_.model.context}});
}

void Trainer::report_step(const StepResult& r, double step_seconds) {
    directory_.append("metrics.jsonl", {{"step", state_.step},
                                        {"loss", r.loss},
                                        {"norm", r.norm},
                                        {"lr", r.lr},
                                        {"tokens", state_.tokens},
                                        {"seconds", elapsed()}});
    const double per_step = train_seconds_ / static_cast<double>(steps_here_);
    const double share = static_cast<double>(state_.step) / static_cast<double>(max_steps_);
    const bool on_screen = state_.step % config_.train.log_every == 0 || state_.step == 1 || state_.step == max_steps_;
    log_.progress(
        fmt::format("step {}/{} loss {:.4f} norm {:.3f} lr {:.2e} {:.1f} ms {:.0f} tokens/s ETA {}", state_.step,
                    max_steps_, r.loss, r.norm, r.lr, 1e3 * step_seconds, static_cast<double>(r.tokens) / step_seconds,
                    duration(per_step * static_cast<double>(max_steps_ - state_.step))),
        share, on_screen);
}

ExitCode Trainer::train() {
    if (finished_) {
        log_.line("{}: already finished at step {}; --fresh starts again", directory_.path(), state_.step);
        return ExitCode::kOk;
    }
    started_ = now();
    print_settings();
    write_run_json("running");
    // A resume starts after the step it was saved at: what was measured there is on disk.
    if (state_.step > 0) last_evaluated_ = last_probed_ = state_.step < max_steps_ ? state_.step : -1;
    while (state_.step < max_steps_) {
        evaluate_and_keep(false);
        probe(false);
        if (stop_requested()) {
            save();
            write_run_json("stopped");
            log_.line("stopped by a signal after step {}; the same command with --resume auto goes on", state_.step);
            return ExitCode::kSavedOnSignal;
        }
        const double start = now();
        const StepResult result = train_step();
        const double seconds = now() - start;
        train_seconds_ += seconds;
        ++steps_here_;
        report_step(result, seconds);
        if (config_.train.save_every && state_.step % config_.train.save_every == 0 && state_.step < max_steps_) save();
    }
    evaluate_and_keep(true);
    probe(true);
    save();
    write_run_json("done");
    log_.line("done: {} steps in {}, {:.0f} tokens/s, probes {:.1f} % of the time", state_.step, duration(elapsed()),
              static_cast<double>(steps_here_ * config_.batch_tokens()) / std::max(1e-9, train_seconds_),
              100 * probe_seconds_ / std::max(1e-9, elapsed() - state_.seconds));
    return ExitCode::kOk;
}

}  // namespace plimsoll
