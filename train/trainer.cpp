#include "train/trainer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <csignal>
#include <nlohmann/json.hpp>

#include "data/file.h"
#include "data/tokenizer.h"
#include "kernels/gpu.h"
#include "train/cad_sample.h"
#include "train/machine.h"
#include "train/plan.h"
#include "train/signals.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

using nlohmann::json;

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

std::string data_hash(const Loader& data) {
    return fmt::format("{:016x}", data.content_hash());
}

json number_or_null(std::optional<double> value) {
    return value ? json(*value) : json();
}

// The directory as rank 0 finds it.
RunDirectory open_directory(const RunConfig& config, Resume resume, Communicator& world) {
    std::array<std::byte, 1> existed{};
    if (world.rank() == 0) {
        RunDirectory directory(config, resume);
        existed[0] = std::byte{directory.existed()};
        world.broadcast(existed, 0);
        return directory;
    }
    world.broadcast(existed, 0);
    return RunDirectory::follower(config, existed[0] != std::byte{0});
}

// Within a step ranks answer soon.
class Patient {
  public:
    Patient(Communicator& world, double seconds) : patience_(world.patience()) {
        patience_ = {stop_requested, seconds};
    }
    ~Patient() { patience_ = {}; }
    Patient(const Patient&) = delete;

  private:
    Patience& patience_;
};

}  // namespace

Trainer::Trainer(const RunConfig& config, const TrainOptions& options, Communicator world)
    : config_(validated(config)),
      options_(options),
      grid_(std::move(world), config),
      max_steps_(config.max_steps()),
      local_rank_(local_rank_of(grid_.world, options.local_rank)),
      device_(config.run.device, threads_of(config.run.threads), local_rank_),
      exec_(device_.exec()),
      ranks_(gather_rank_table(grid_.world, device_, config, local_rank_)),
      precision_{compute_dtype(config.run.precision, exec_.device)},
      data_(config.data, Split::kTrain, training_options(config)),
      validation_(validation_loader(config)),
      network_(with_sized_logits({config.model, config.attention, config.loss, data_.vocab_size()},
                                 config.tokens_per_micro_batch(), precision_, exec_)),
      directory_(open_directory(config, options.resume, grid_.world)),
      log_(is_root() ? directory_.file("log.txt") : ""),
      checkpointer_(directory_.path(),
                    {.keep = {.newest = config.train.keep, .every = config.train.keep_every},
                     .asynchronous = config.train.async_save},
                    grid_.world),
      replica_(config_, network_, precision_, grid_, data_, exec_),
      limit_(TimeLimit::of(config.train.max_seconds)),
      speed_(exec_) {
    if (const std::string file = config_.gemm_cache(); !file.empty())
        keep_gemm_algorithms(
            file, [this](const std::string& message) { log_.line("warning: {}", message); }, exec_);
    check_memory();
    grid_.bind(exec_);
    if (data_.samples_available() >= 0) {
        const int64_t steps = data_.samples_available() / (config_.train.micro_batch * config_.micro_batches());
        if (steps == 0)
            fail_input("data.end = \"stop\": {} training rows are fewer than the {} of one step",
                       data_.samples_available(), config_.train.micro_batch * config_.micro_batches());
        max_steps_ = std::min(max_steps_, steps);
    }
    reserve_gpu_scratch(scratch_sizes(model(), config_.tokens_per_micro_batch()), exec_);
    replica_.allocate(exec_.device);
    for (const auto& chunk : replica_.chunks())
        initialize(chunk->model.parameters(), chunk->model.table(), static_cast<uint64_t>(config_.run.seed), exec_);
    state_.config = resolved_toml(config_);
    state_.data_hash = data_hash(data_);
    state_.tokenizer_hash = data_.tokenizer_hash();
    resume_from_checkpoint();
    if (is_root() && data_.tokenizer()) save_tokenizer(*data_.tokenizer(), directory_.file("tokenizer.json"));
    for (const auto& chunk : replica_.chunks()) chunk->model.refresh_working(exec_);
    if (Transformer* whole = replica_.whole()) probed_.emplace(*whole, config_.tokens_per_micro_batch(), exec_);
    if (validation_ && config_.probes.enabled && is_root())
        probes_ = std::make_unique<Probes>(config_.probes, network_, *validation_, config_.train.micro_batch);
    if (config_.train.sample_every) samples_ = std::make_unique<TrainingSamples>(config_, network_, data_.tokenizer());
}

Transformer& Trainer::model() {
    replica_.await_parameters();
    return replica_.chunks().front()->model;
}

void Trainer::check_memory() {
    const MemoryPlan memory = plan_memory(config_, network_, precision_, grid_, exec_);
    if (memory.fits()) return;
    fail_input(
        "this run needs {:.0f} MiB, {:.0f} MiB are available; the largest train.micro_batch that fits is {} (plimsoll "
        "plan CONFIG lists what takes how much)",
        static_cast<double>(memory.bytes) / (1 << 20), static_cast<double>(memory.available) / (1 << 20),
        memory.largest_micro_batch);
}

LossSums Trainer::compute_step() {
    if (config_.cad.plans() && config_.cad.record && is_cad_sample(state_.step + 1)) {
        grid_.world.barrier();  // times of ranks are compared
        replica_.attention().sample_next_step();
    }
    const double start = now_seconds();
    const RankGrid::Traffic before = grid_.traffic();
    const LossSums own = replica_.compute(options_.overfit_batch ? 0 : state_.samples, exec_);
    if (grid_.world.size() == 1) {
        replica_.inject(fault_, state_.step + 1);
        return own;
    }
    // The loss, how many want to stop and why, and behind that every rank's time, without its waiting.
    constexpr size_t kLosses = 4, kTimes = kLosses + kStops;
    std::vector<double> sums(kTimes + static_cast<size_t>(grid_.world.size()));
    sums[0] = own.nll, sums[1] = own.z, sums[2] = static_cast<double>(own.scored), sums[3] = own.decorrelation;
    sums[kLosses + static_cast<size_t>(wanted_stop())] = 1;
    sums[kTimes + static_cast<size_t>(grid_.world.rank())] =
        now_seconds() - start - (grid_.traffic() - before).wait_seconds;
    grid_.world.sum(sums);
    straggler_ = stragglers_.add(std::span(sums).subspan(kTimes));
    check_plans();
    replica_.finish_gradients();
    replica_.inject(fault_, state_.step + 1);
    stop_ = Stop::kNo;
    for (size_t why = kStops - 1; why > 0; --why)
        if (sums[kLosses + why] > 0) stop_ = static_cast<Stop>(why);
    if (config_.parallel.pipelined()) stage_times_ = grid_.world.gather_each(replica_.stage_times());
    return {.nll = sums[0], .z = sums[1], .scored = static_cast<int64_t>(sums[2]), .decorrelation = sums[3]};
}

// Every rank planned for all: they must have come to the same.
void Trainer::check_plans() {
    if (!replica_.balance()) return;
    const std::vector<uint64_t> hashes = grid_.world.gather_each(replica_.balance()->hash);
    for (size_t r = 1; r < hashes.size(); ++r)
        if (hashes[r] != hashes[0])
            throw Error(ExitCode::kInternal,
                        fmt::format("step {}: ranks 0 and {} planned core attention differently ({:016x}, {:016x}); do "
                                    "they run the same program on the same data?",
                                    state_.step + 1, r, hashes[0], hashes[r]));
}

StepResult Trainer::train_step() {
    // A rank that was asked to end and waits for others longer than any step took is told of a rank that has died.
    const Patient patient(grid_.world, slowest_step_ > 0 ? 1.5 + 3 * slowest_step_ : 0);
    const int64_t rows = config_.train.micro_batch, micro_batches = config_.micro_batches();
    StepResult result;
    const RankGrid::Traffic before = grid_.traffic();
    replica_.inject_before(fault_, state_.step + 1);
    check_replicas();
    const LossSums sums = compute_step();
    check_owner();  // before anything is written: lines of two processes must not mix
    result.tokens = config_.batch_tokens();
    const TraceRange range(exec_, "update");
    const double mean = 1.0 / static_cast<double>(std::max<int64_t>(1, sums.scored));
    result.loss = (sums.nll + sums.z) * mean;
    result.decorrelation = sums.decorrelation * mean;
    result.norm = replica_.gradient_norm(exec_) * mean;
    result.lr = learning_rate(config_.schedule, config_.optimizer.lr, state_.step, max_steps_);
    result.verdict = health_.judge(result.loss, result.norm);
    if (result.verdict == Verdict::kStop) stop_training(result);
    // As torch.nn.utils.clip_grad_norm_, with its 1e-6.
    const double clip = config_.train.clip;
    const double clipped = clip > 0 && result.norm > clip ? clip / (result.norm + 1e-6) : 1.0;
    if (result.verdict == Verdict::kUpdate) replica_.update(result.lr, mean * clipped, state_.step + 1, exec_);
    state_.step += 1;
    state_.samples += rows * micro_batches;
    state_.tokens += result.tokens;
    result.traffic = grid_.traffic() - before;
    return result;
}

// Listens while the steps of --profile run, and writes what it heard after the last of them.
void Trainer::profile_next_step(bool there_is_one) {
    const bool wanted = there_is_one && options_.profile.contains(state_.step + 1);
    if (wanted && !profile_) {
        profile_ = std::make_unique<Profile>(exec_);
        exec_.tracer = profile_.get();
    }
    if (wanted || !profile_) return;
    exec_.tracer = nullptr;
    write_file_atomically(directory_.file("profile.json"), {profile_->chrome_trace()});
    profile_.reset();
    log_.line("steps {} to {} traced in {} (open it in ui.perfetto.dev or chrome://tracing)", options_.profile.first,
              state_.step, directory_.file("profile.json"));
}

// A launcher ends the job when the first rank ends with an error status: none may while rank 0 still writes.
void Trainer::wait_for_root() {
    grid_.world.barrier();
}

Stop Trainer::wanted_stop() const {
    if (grid_.world.size() > 1 && !checkpointer_.is_owner()) return Stop::kFenced;
    if (stop_requested()) return stop_signal() == SIGUSR1 ? Stop::kUser1 : Stop::kTerminated;
    return limit_.is_reached(now_seconds()) ? Stop::kTimeLimit : Stop::kNo;
}

void Trainer::check_owner() const {
    if (grid_.world.size() > 1 && stop_ != Stop::kFenced) return;
    checkpointer_.check_owner();
    if (!is_root())
        throw Error(ExitCode::kTransient,
                    "another process has taken this run over, rank 0 says which; nothing was written");
}

ExitCode Trainer::stop_early(Stop why) {
    profile_next_step(false);
    save_last();
    stop_ = why;
    write_run_json("stopped");
    const std::string by =
        why != Stop::kTimeLimit
            ? "by a signal"
            : fmt::format(
                  "{:.1f} s after its start, before its time limit ({}): two steps, an evaluation and saves "
                  "may take {:.1f} s",
                  now_seconds() - process_start(), limit_.name().empty() ? "of another rank" : limit_.name(),
                  limit_.needed());
    log_.line("stopped after step {} {}; the same command with --resume auto goes on", state_.step, by);
    wait_for_root();
    return ExitCode::kSavedOnSignal;
}

double Trainer::elapsed() const {
    return state_.seconds + (now_seconds() - started_);
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

bool Trainer::evaluation_is_due(bool last) const {
    if (!validation_ || last_evaluated_ == state_.step) return false;
    return state_.step == 0 || last || (config_.train.eval_every && state_.step % config_.train.eval_every == 0);
}

bool Trainer::probe_is_due(bool last) const {
    return validation_ && config_.probes.enabled && last_probed_ != state_.step &&
           (last || state_.step == 0 || is_probe_step(state_.step));
}

bool Trainer::sample_is_due(bool last) const {
    return samples_ && state_.step > 0 && last_sampled_ != state_.step &&
           (last || state_.step % config_.train.sample_every == 0);
}

void Trainer::evaluate_and_probe(bool last) {
    const bool evaluation = evaluation_is_due(last), probes = probe_is_due(last), sample = sample_is_due(last);
    if (!evaluation && !probes && !sample) return;
    replica_.collect(exec_);
    // Rank 0 may take its time.
    const auto timeout = grid_.world.timeout();
    if (!is_root()) grid_.world.set_timeout(timeout + std::chrono::minutes(30));
    if (evaluation) {
        last_evaluated_ = state_.step;
        if (is_root()) evaluate_now();
        keep_if_best();
    }
    if (probes && is_root()) probe(last);
    if (sample) {
        last_sampled_ = state_.step;
        if (is_root()) sample_now();
    }
    wait_for_root();
    grid_.world.set_timeout(timeout);
}

void Trainer::evaluate_now() {
    const Evaluation e = evaluate(*replica_.whole(), replica_.core(), *validation_, config_.train.eval_samples,
                                  config_.train.micro_batch, config_.scored_tokens(), exec_);
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
    }
}

void Trainer::sample_now() {
    const std::string text = for_terminal(samples_->write(*replica_.whole(), exec_));  // JSON holds UTF-8 only
    directory_.append("samples.jsonl", {{"step", state_.step},
                                        {"tokens", state_.tokens},
                                        {"prompt", for_terminal(config_.train.sample_prompt)},
                                        {"text", text}});
    log_.line("sample {}/{}: {}", state_.step, max_steps_, json(text).dump());
}

void Trainer::probe(bool last) {
    if (!last && state_.step > 0) {
        const double expected =
            train_seconds_ / static_cast<double>(std::max<int64_t>(1, steps_here_)) * static_cast<double>(max_steps_);
        if (probe_seconds_ + last_probe_seconds_ > config_.probes.max_share * expected) return;
    }
    last_probed_ = state_.step;
    const double start = now_seconds();
    probed_->refresh();
    const Exec host{.threads = exec_.threads};
    json line = probes_->measure(*probed_, replica_.core(), host);
    line["step"] = state_.step;
    line["tokens"] = state_.tokens;
    directory_.append("probes.jsonl", line);
    if (last) {
        json maps = probes_->attention_maps(*probed_, replica_.core(), *validation_, host);
        maps["step"] = state_.step;
        directory_.write_json("attention_maps.json", maps);
    }
    last_probe_seconds_ = now_seconds() - start;
    probe_seconds_ += last_probe_seconds_;
}

ExitCode Trainer::train() {
    if (finished_) {
        log_.line("{}: already finished at step {}; --fresh starts again", directory_.path(), state_.step);
        return ExitCode::kOk;
    }
    started_ = now_seconds();
    if (config_.run.measure_peak) speed_.measure(precision_.compute, exec_);
    print_settings();
    write_run_json("running");
    // A resume starts after the step it was saved at: what was measured there is on disk.
    if (state_.step > 0) last_evaluated_ = last_probed_ = last_sampled_ = state_.step < max_steps_ ? state_.step : -1;
    while (state_.step < max_steps_) {
        const double before = now_seconds();
        evaluate_and_probe(false);
        limit_.took_evaluation(now_seconds() - before);
        save_if_due();
        const Stop stop = grid_.world.size() > 1 ? stop_ : wanted_stop();
        if (stop != Stop::kNo) return stop_early(stop);
        profile_next_step(true);
        const double start = now_seconds();
        const StepResult result = train_step();
        const double seconds = now_seconds() - start;
        slowest_step_ = std::max(slowest_step_, seconds);
        limit_.took_step(seconds);
        train_seconds_ += seconds;
        ++steps_here_;
        traffic_.bytes += result.traffic.bytes, traffic_.wait_seconds += result.traffic.wait_seconds;
        report_step(result, seconds);
        if (result.verdict == Verdict::kRollBack) roll_back();
    }
    profile_next_step(false);
    evaluate_and_probe(true);
    save_last();
    write_run_json("done");
    wait_for_root();
    log_.line("done: {} steps in {}, {:.0f} tokens/s, probes {:.1f} % of the time", state_.step, duration(elapsed()),
              static_cast<double>(steps_here_ * config_.batch_tokens()) / std::max(1e-9, train_seconds_),
              100 * probe_seconds_ / std::max(1e-9, elapsed() - state_.seconds));
    if (grid_.world.size() > 1)
        log_.line("rank 0 sent {:.1f} MiB, and waited for other ranks {:.1f} % of its steps' time",
                  static_cast<double>(traffic_.bytes) / (1 << 20),
                  100 * traffic_.wait_seconds / std::max(1e-9, train_seconds_));
    return ExitCode::kOk;
}

}  // namespace plimsoll
