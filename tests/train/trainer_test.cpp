#include "train/trainer.h"

#include <gtest/gtest.h>

#include <sys/resource.h>

#include <cmath>
#include <csignal>

#include "dist/as_ranks.h"
#include "support/quick_run.h"
#include "train/inspect_checkpoint.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    // A Bigram-Backcopy run of milliseconds.
    RunConfig config(const std::string& name, int64_t steps = 12, const std::string& variant = {}) {
        RunConfig c = quick_run(folder_ / name, steps, variant);
        c.run.threads = 2, c.data.val_samples = 16, c.probes.samples = 4;
        c.train.micro_batch = 4, c.train.batch_tokens = 128, c.train.eval_every = 0;
        return c;
    }
    static ExitCode train(const RunConfig& c, Resume resume = Resume::kNever) {
        return Trainer(c, {.resume = resume, .command = "test"}).train();
    }
    static std::vector<float> parameters(Trainer& trainer) {
        const std::span<float> p = trainer.model().parameters().span<float>();
        return {p.begin(), p.end()};
    }
    // Parameters and optimizer state of a finished run.
    std::string final_checkpoint(const std::string& name, int64_t step) {
        return read_file(folder_ / (name + fmt::format("/checkpoints/step_{:08}/rank_0.bin", step)), "checkpoint");
    }
    // What the manifest of a checkpoint says.
    Manifest manifest(const std::string& name, int64_t step) {
        return read_manifest(CheckpointStore(folder_ / name).folder(step));
    }
    // Runs as `ranks` threads.
    static void train_as_ranks(int ranks, const RunConfig& c, Resume resume = Resume::kNever) {
        as_ranks(ranks, [&](Communicator& world) {
            Trainer trainer(c, {.resume = resume, .command = "test"}, world.split(0, world.rank(), "trainer"));
            EXPECT_EQ(trainer.train(), ExitCode::kOk);
        });
    }
    // metrics.jsonl without the clock.
    std::vector<std::string> metrics(const std::string& name) {
        std::vector<std::string> lines;
        for (nlohmann::json line : read_lines(folder_ / (name + "/metrics.jsonl"))) {
            for (const char* cost : {"seconds", "sent_bytes", "wait_ms"}) line.erase(cost);
            lines.push_back(line.dump());
        }
        return lines;
    }
};

TEST_F(TrainerTest, AResumedRunEqualsAnUninterruptedOneBitForBit) {
    EXPECT_EQ(train(config("whole")), ExitCode::kOk);
    for (const int64_t stop : {1, 5, 11}) {
        const std::string name = fmt::format("parts{}", stop);
        EXPECT_EQ(train(config(name, stop)), ExitCode::kOk);
        EXPECT_EQ(train(config(name), Resume::kAuto), ExitCode::kOk);
        EXPECT_EQ(final_checkpoint(name, 12), final_checkpoint("whole", 12)) << "stopped after " << stop;
        EXPECT_EQ(metrics(name), metrics("whole"));
    }
}

TEST_F(TrainerTest, ADamagedCheckpointFallsBackToTheOneBefore) {
    RunConfig c = config("run", 8);
    c.train.save_every = 4;
    train(c);
    const std::string newest = folder_ / "run/checkpoints/step_00000008/rank_0.bin";
    std::string bytes = read_file(newest, "checkpoint");
    bytes[bytes.size() / 2] ^= 1;
    write_bytes(newest, bytes);
    RunConfig longer = config("run", 12);
    longer.train.save_every = 4;
    EXPECT_EQ(train(longer, Resume::kAuto), ExitCode::kOk);
    EXPECT_EQ(train(config("whole")), ExitCode::kOk);
    EXPECT_EQ(final_checkpoint("run", 12), final_checkpoint("whole", 12));
    // None whole: never a silent start from nothing.
    for (const auto& entry : fs::directory_iterator(folder_ / "run/checkpoints"))
        fs::resize_file(entry.path() / "MANIFEST", 10);
    RunConfig again = config("run", 16);
    expect_error(ExitCode::kBadInput, {"checkpoints", "none of them whole", "--fresh"},
                 [&] { train(again, Resume::kAuto); });
    EXPECT_EQ(train(again, Resume::kFresh), ExitCode::kOk);
}

TEST_F(TrainerTest, SavesBesideTrainingAreThoseInBetween) {
    for (const bool aside : {false, true}) {
        RunConfig c = config(aside ? "aside" : "between");
        c.train.save_every = 1, c.train.keep = 100, c.train.async_save = aside;
        EXPECT_EQ(train(c), ExitCode::kOk);
    }
    for (int64_t step = 1; step <= 12; ++step)
        EXPECT_EQ(final_checkpoint("aside", step), final_checkpoint("between", step));
    EXPECT_EQ(metrics("aside"), metrics("between"));
    RunConfig c = config("pruned");
    c.train.save_every = 1, c.train.keep = 2, c.train.keep_every = 5;
    train(c);
    EXPECT_EQ(CheckpointStore(folder_ / "pruned").steps(), (std::vector<int64_t>{5, 10, 11, 12}));
}

// Ranks go on from what other numbers of ranks saved, with the bits of one process, and agree on the best step.
TEST_F(TrainerTest, RanksGoOnFromEachOthersCheckpoints) {
    const auto small = [&](const std::string& name, int64_t steps) {
        RunConfig c = config(name, steps);
        c.run.threads = 1, c.train.micro_batch = 1, c.train.save_every = 2, c.train.eval_every = 3;
        return c;
    };
    RunConfig whole = small("whole", 8);
    whole.parallel.virtual_ranks = 2, whole.train.keep = 100;
    EXPECT_EQ(train(whole), ExitCode::kOk);
    train_as_ranks(2, small("parts", 4));
    EXPECT_EQ(tensors_hash(manifest("parts", 4)), tensors_hash(manifest("whole", 4)));
    {
        Trainer one(small("parts", 8), {.resume = Resume::kAuto, .command = "test"});
        EXPECT_EQ(one.step(), 4);
        const std::string saved = CheckpointStore(folder_ / "parts").folder(4);
        const std::span<float> parameters = one.model().parameters().span<float>();
        std::vector<float> wte(static_cast<size_t>(one.model().table().entries()[0].shape.elements()));
        const Parameter& first = one.model().table().entries()[0];
        const CheckpointPart part{.name = "parameters/" + first.name,
                                  .shape = first.shape,
                                  .range = {0, first.shape.elements()},
                                  .data = Tensor(wte.data(), DType::kF32, {first.shape.elements()})};
        load_parts(saved, read_manifest(saved), {&part, 1}, 0, 1);
        EXPECT_TRUE(std::equal(wte.begin(), wte.end(), parameters.begin() + first.offset));
    }
    train_as_ranks(2, small("parts", 8), Resume::kAuto);
    const Manifest a = manifest("parts", 8), b = manifest("whole", 8);
    EXPECT_EQ(a.files.size(), 2u);
    EXPECT_EQ(b.files.size(), 1u);
    EXPECT_EQ(tensors_hash(a), tensors_hash(b));
    EXPECT_EQ(a.state.best_loss, b.state.best_loss);
    EXPECT_GT(a.state.best_step, 0);
    EXPECT_EQ(metrics("parts"), metrics("whole"));
    train_as_ranks(4, small("parts", 10), Resume::kAuto);
    EXPECT_EQ(manifest("parts", 10).files.size(), 4u);
}

// The kernel refuses files as large as a checkpoint's: training goes on, and the run's end is an error.
TEST_F(TrainerTest, AFullDiskDoesNotStopTraining) {
    RunConfig c = config("run");
    c.train.save_every = 4, c.train.async_save = false;
    rlimit before{};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{.rlim_cur = 40'000, .rlim_max = before.rlim_max};
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    expect_error(ExitCode::kIo, {"the last step, 12, could not be saved", "log.txt"}, [&] { train(c); });
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    const auto lines = read_lines(folder_ / "run/metrics.jsonl");
    ASSERT_EQ(lines.size(), 12u);
    EXPECT_EQ(lines[3]["checkpoint_failures"], 0);
    EXPECT_EQ(lines[4]["checkpoint_failures"], 1);
    EXPECT_EQ(lines[11]["checkpoint_failures"], 2);
    EXPECT_NE(read_file(folder_ / "run/log.txt", "log").find("step 4 was not saved, training goes on"),
              std::string::npos);
    EXPECT_TRUE(fs::is_empty(folder_ / "run/checkpoints"));
    EXPECT_EQ(train(c, Resume::kAuto), ExitCode::kOk);
    EXPECT_EQ(train(config("whole")), ExitCode::kOk);
    EXPECT_EQ(final_checkpoint("run", 12), final_checkpoint("whole", 12));
}

TEST_F(TrainerTest, AnExistingDirectoryIsNeverOverwritten) {
    train(config("run", 2));
    expect_error(ExitCode::kBadInput, {"already holds a run", "--resume auto"}, [&] { train(config("run", 2)); });
    RunConfig other = config("run", 2);
    other.model.layers = 2;
    expect_error(ExitCode::kBadInput, {"another configuration", "model.layers: 2 here, 1 there"},
                 [&] { train(other, Resume::kAuto); });
    EXPECT_EQ(metrics("run").size(), 2u);
    EXPECT_EQ(train(config("run", 2), Resume::kAuto), ExitCode::kOk);  // finished: nothing to do
    EXPECT_EQ(metrics("run").size(), 2u);
}

TEST_F(TrainerTest, AnUnwritableDirectoryIsRefusedBeforeTraining) {
    write_text(folder_ / "file", "not a folder");
    expect_error(ExitCode::kIo, {"file/run", "--run-dir"}, [&] { train(config("file/run")); });
}

TEST_F(TrainerTest, BadDataIsRefusedByName) {
    RunConfig c = config("run");
    c.data.source = "shards";
    c.data.shards = folder_ / "*.bin";
    expect_error(ExitCode::kBadInput, {"data.vocab_size"}, [&] { train(c); });
    c.data.vocab_size = 1000;
    expect_error(ExitCode::kBadInput, {"*.bin"}, [&] { train(c); });
    write_bytes(folder_ / "cut.bin", std::string(100, 'x'));
    expect_error(ExitCode::kBadInput, {"cut.bin"}, [&] { train(c); });
    fs::remove(folder_ / "cut.bin");
    write_token_shard(folder_ / "good.bin", counting_ids(2000), 50257);
    expect_error(ExitCode::kBadInput, {"good.bin", "1000"}, [&] { train(c); });
}

TEST_F(TrainerTest, AnotherTokenizerIsRefusedOnResume) {
    const std::string golden = PLIMSOLL_SOURCE_DIR "/tests/golden/bpe/", shards = folder_ / "shards/";
    prepare_text({.text = excerpt_path(), .out = shards, .tokenizer = golden + "tokenizer.json"});
    RunConfig c = config("run", 2);
    c.data.source = "shards", c.data.shards = shards + "train_*.bin", c.data.val_shards = shards + "val_*.bin";
    c.data.vocab_size = 401, c.probes.enabled = false;
    EXPECT_EQ(train(c), ExitCode::kOk);
    const std::string hash = load_tokenizer(golden + "tokenizer.json")->hash();
    EXPECT_EQ(manifest("run", 2).state.tokenizer_hash, hash);
    EXPECT_EQ(nlohmann::json::parse(read_file(folder_ / "run/run.json", "run"))["tokenizer_hash"], hash);
    c.train.max_steps = 4;
    // Of as many ids, so that no id is out of range, and the shards are the same.
    const auto other = load_tokenizer(golden + "prefix.json");
    save_tokenizer(*other, shards + "tokenizer.json");
    expect_error(ExitCode::kBadInput, {other->hash(), hash, "manifest.json"}, [&] { train(c, Resume::kAuto); });
    fs::remove(shards + "manifest.json");
    expect_error(ExitCode::kBadInput, {hash, other->hash(), "tokenizer", "--fresh"}, [&] { train(c, Resume::kAuto); });
    // Without one there is nothing to compare, and what is known stays known.
    fs::remove(shards + "tokenizer.json");
    EXPECT_EQ(train(c, Resume::kAuto), ExitCode::kOk);
    EXPECT_EQ(manifest("run", 4).state.tokenizer_hash, hash);
}

TEST_F(TrainerTest, TheEndOfTheDataEndsTheRun) {
    RunConfig c = config("run", 1000);
    c.data.source = "text", c.data.text = excerpt_path(), c.data.end = "stop";
    c.train.batch_tokens = 0;
    EXPECT_EQ(train(c), ExitCode::kOk);
    const size_t steps = metrics("run").size();
    EXPECT_GT(steps, 10u);
    EXPECT_LT(steps, 1000u);
}

TEST_F(TrainerTest, MicroBatchesAndThreadsDoNotChangeTheRun) {
    RunConfig one = config("one", 5), four = config("four", 5), threads = config("threads", 5);
    one.train.micro_batch = 8, four.train.micro_batch = 2, threads.run.threads = 1;
    Trainer a(one, {}), b(four, {}), c(config("base", 5), {}), d(threads, {});
    for (int step = 0; step < 5; ++step) {
        const double loss = a.train_step().loss;
        EXPECT_NEAR(loss, b.train_step().loss, 1e-5 * loss);  // the same sum in another order
        EXPECT_EQ(c.train_step().loss, d.train_step().loss);
    }
    EXPECT_EQ(parameters(c), parameters(d));
}

TEST_F(TrainerTest, OneBatchCanBeLearntByHeart) {
    RunConfig c = config("run", 150);
    c.train.batch_tokens = 0, c.optimizer.lr = 3e-3;
    Trainer trainer(c, {.overfit_batch = true, .command = ""});
    const double first = trainer.train_step().loss;
    double last = 0;
    for (int step = 0; step < 149; ++step) last = trainer.train_step().loss;
    EXPECT_LT(last, 0.5 * first);
}

TEST_F(TrainerTest, ADivergedRunStopsBeforeTheUpdate) {
    RunConfig c = config("run", 50);
    c.optimizer.kind = "sgd", c.optimizer.lr = 1e30;
    expect_error(ExitCode::kInternal, {"not updated", "optimizer.lr"}, [&] { train(c); });
}

TEST_F(TrainerTest, ClippingAndSchedulesReachTheOptimizer) {
    RunConfig c = config("run", 4);
    c.schedule.kind = "linear", c.schedule.final_fraction = 0, c.schedule.warmup_steps = 0, c.optimizer.lr = 1;
    c.optimizer.kind = "sgd", c.optimizer.momentum = 0, c.optimizer.weight_decay = 0, c.train.clip = 1e-3;
    Trainer trainer(c, {});
    const std::vector<float> before = parameters(trainer);
    const StepResult step = trainer.train_step();
    EXPECT_EQ(step.lr, 1.0);
    EXPECT_GT(step.norm, 1e-3);
    double moved = 0;
    const std::vector<float> after = parameters(trainer);
    for (size_t i = 0; i < after.size(); ++i)
        moved += std::pow(static_cast<double>(after[i]) - static_cast<double>(before[i]), 2);
    EXPECT_NEAR(std::sqrt(moved), 1e-3, 1e-5);  // lr 1: the step is the clipped gradient
}

TEST_F(TrainerTest, WritesWhatTheReportReads) {
    for (const char* variant : {"softmax", "sigmoid", "gated", "gated_headwise", "placeholder"}) {
        train(config(variant, 3, variant));
        const std::string run = folder_ / variant;
        const nlohmann::json info = nlohmann::json::parse(read_file(run + "/run.json", "run"));
        for (const char* key : {"name",
                                "variant",
                                "command",
                                "commit",
                                "build",
                                "cpu",
                                "threads",
                                "precision",
                                "seed",
                                "data_hash",
                                "tokenizer_hash",
                                "params",
                                "params_non_embedding",
                                "flops_per_token",
                                "qk_norm",
                                "placeholders",
                                "steps",
                                "tokens_per_second",
                                "ms_per_step",
                                "seconds",
                                "status",
                                "oracle",
                                "vocab",
                                "layers",
                                "heads"})
            EXPECT_TRUE(info.contains(key)) << key;
        EXPECT_EQ(info["status"], "done");
        EXPECT_EQ(info["variant"], variant);
        const auto evals = read_lines(run + "/evals.jsonl"), probes = read_lines(run + "/probes.jsonl");
        ASSERT_EQ(evals.size(), 2u);
        EXPECT_EQ(evals[0]["step"], 0);
        EXPECT_EQ(evals[1]["step"], 3);
        // A risk is the floor and a divergence: never below.
        EXPECT_GE(evals[0]["bigram_risk"], info["oracle"]["bigram_risk"]);
        EXPECT_GE(evals[0]["copy_risk"], 0.0);
        EXPECT_EQ(probes.back()["step"], 3);
        const nlohmann::json heads = probes.back()["per_head"];
        for (const char* key :
             {"sink_rate", "first_mass_raw", "first_mass_normalized", "first_mass_effective", "row_mass", "drain_ratio",
              "value_ratio", "wo_value_norm", "key_ratio", "query_key_cosine", "sink_logit_delta", "entropy",
              "logit_max", "dead_rows", "dormant", "head_output_ratio"}) {
            ASSERT_TRUE(heads.contains(key)) << key;
            EXPECT_TRUE(heads[key][0][0].is_number()) << key;
        }
        const std::string name = variant;
        EXPECT_EQ(heads.contains("gate_mean"), name.starts_with("gated"));
        EXPECT_EQ(heads.contains("placeholder_mass_effective"), name == "placeholder");
        if (name == "sigmoid")
            EXPECT_LT(heads["row_mass"][0][0], 0.9);
        else
            EXPECT_NEAR(heads["row_mass"][0][0].get<double>(), 1.0, 1e-9);
        if (name.starts_with("gated")) {
            const double gate = heads["gate_mean"][0][0], raw = heads["first_mass_raw"][0][0],
                         effective = heads["first_mass_effective"][0][0];
            EXPECT_NEAR(gate, 0.5, 0.1);  // no bias, small weights
            EXPECT_NEAR(effective, gate * raw, 0.1 * raw);
        }
        EXPECT_EQ(probes.back()["per_layer"]["residual_peak_ratio"].size(), 2u);
        const nlohmann::json maps = nlohmann::json::parse(read_file(run + "/attention_maps.json", "maps"));
        EXPECT_EQ(maps["labels"].size(), 16u);
        EXPECT_EQ(maps["maps"][0][0].size(), 16u);
        EXPECT_TRUE(fs::exists(run + "/log.txt") && fs::exists(run + "/config.toml"));
    }
}

TEST_F(TrainerTest, VariantsReadTheSameSamples) {
    RunConfig softmax = config("softmax", 1), placeholder = config("placeholder", 1);
    placeholder.attention.placeholders = 1;
    const LoaderOptions plain{.T = 16, .placeholders = 0, .shared_placeholders = 0, .seed = 42};
    const LoaderOptions cut{.T = 16, .placeholders = 1, .shared_placeholders = 0, .seed = 42};
    const Batch a = Loader(softmax.data, Split::kTrain, plain).load(5, 2),
                b = Loader(placeholder.data, Split::kTrain, cut).load(5, 2);
    for (size_t t = 0; t + 1 < 16; ++t) EXPECT_EQ(a.tokens[t], b.tokens[t + 1]);
}

TEST(Probes, FallOnTheStepsOfThePublishedTable) {
    for (const int64_t step : {0, 1, 2, 5, 10, 50, 100, 140, 200, 300, 400, 1000, 2000, 5000, 10000, 50000})
        EXPECT_TRUE(is_probe_step(step)) << step;
    int probes = 0;
    for (int64_t step = 0; step <= 1000; ++step) probes += is_probe_step(step);
    EXPECT_EQ(probes, 19);
}

}  // namespace
}  // namespace plimsoll
