#include "train/trained_model.h"

#include <cstring>

#include "layout_runs.h"
#include "support/tiny_network.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;

class TrainedModelTest : public LayoutTest {
  protected:
    Exec exec_{.threads = 2};
    LocalCoreAttention core_;
    std::vector<std::string> reports_;

    TrainedModel load(const std::string& path) {
        return load_trained_model(path, [&](const std::string& why) { reports_.push_back(why); });
    }
    // A finished run of one process; it saved at steps 2 and 4.
    RunConfig trained(const std::string& variant, const std::string& precision = "fp32") {
        RunConfig c = config(variant, precision, {}, 1, 4);
        c.train.save_every = 2;
        Trainer(c, {}).train();
        return c;
    }
    // Logits of one row of random ids, as bytes.
    std::string logits(Transformer& model) {
        const TinyBatch batch(model.config(), 1);
        model.evaluate(core_, batch.input(), exec_);
        const Tensor t = model.logits(batch.n(), exec_);
        return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())};
    }
    static std::string bytes(Tensor t) { return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())}; }
};

TEST_F(TrainedModelTest, HasTheParametersAndLogitsOfTheTrainerToTheBit) {
    for (const char* variant : {"softmax", "sigmoid", "placeholder", "gated"})
        for (const char* precision : {"fp32", "bf16", "fp64"}) {
            const RunConfig c = config(variant, precision, {.tied = true}, 1, 3);
            Trainer trainer(c, {});
            ASSERT_EQ(trainer.train(), ExitCode::kOk);
            const TrainedModel model = load(c.run.dir);
            EXPECT_EQ(bytes(model.parameters()), bytes(trainer.model().parameters())) << variant << precision;
            EXPECT_EQ(model.origin().step, 3);
            EXPECT_EQ(model.origin().tokens, 3 * 16);
            EXPECT_EQ(model.network().attention.placeholders, c.attention.placeholders);
            const auto network = model.transformer(16, trainer.model().precision(), exec_);
            EXPECT_EQ(logits(*network), logits(trainer.model())) << variant << precision;
        }
}

TEST_F(TrainedModelTest, IsTheSameWhateverRanksAndStagesSavedIt) {
    const Layout layout{.data_ranks = 2, .stages = 2, .tied = true};
    const Outcome four = as_threads("gated", "fp32", layout, 2), one = alone("gated", "fp32", layout, 2);
    EXPECT_EQ(four, one);
    EXPECT_EQ(bytes(load(folder_ / "0").parameters()), bytes(load(folder_ / "1").parameters()));
    EXPECT_EQ(read_manifest(CheckpointStore(folder_ / "0").folder(2)).files.size(), 4u);
}

TEST_F(TrainedModelTest, IsRoundedOrWidenedOnRequest) {
    const TrainedModel wide = load(trained("softmax", "fp64").run.dir), narrow = load(trained("softmax").run.dir);
    const auto rounded = wide.transformer(8, {DType::kF32}, exec_),
               widened = narrow.transformer(8, {DType::kF64}, exec_);
    const Tensor w = rounded->parameters(), n = widened->parameters();
    for (int64_t i = 0; i < w.elements(); ++i)
        ASSERT_EQ(w.ptr<float>()[i], static_cast<float>(wide.parameters().ptr<double>()[i]));
    for (int64_t i = 0; i < n.elements(); ++i)
        ASSERT_EQ(n.ptr<double>()[i], static_cast<double>(narrow.parameters().ptr<float>()[i]));
    EXPECT_TRUE(narrow.transformer(8, {DType::kBF16}, exec_)->working());
}

TEST_F(TrainedModelTest, TakesTheNewestWholeCheckpointOrTheOneNamed) {
    const std::string run = trained("softmax").run.dir;
    EXPECT_EQ(load(run).origin().step, 4);
    const TrainedModel named = load(run + "/checkpoints/step_00000002");
    EXPECT_EQ(named.origin().step, 2);
    EXPECT_EQ(named.origin().run, run);
    EXPECT_NE(bytes(named.parameters()), bytes(load(run).parameters()));
    EXPECT_TRUE(reports_.empty());

    const std::string newest = run + "/checkpoints/step_00000004/rank_0.bin";
    std::string content = read_file(newest, "checkpoint");
    content[content.size() / 2] ^= 1;
    write_bytes(newest, content);
    EXPECT_EQ(load(run).origin().step, 2);
    ASSERT_EQ(reports_.size(), 1u);
    EXPECT_NE(reports_[0].find("damaged"), std::string::npos) << reports_[0];
    expect_error(ExitCode::kBadInput, {newest, "damaged"}, [&] { load(run + "/checkpoints/step_00000004"); });

    fs::resize_file(run + "/checkpoints/step_00000002/MANIFEST", 10);
    expect_error(ExitCode::kBadInput, {"2 checkpoints", "none of them whole", "the newest"}, [&] { load(run); });
    fs::remove_all(run + "/checkpoints");
    expect_error(ExitCode::kBadInput, {run, "no checkpoint yet", "train.save_every"}, [&] { load(run); });
    expect_error(ExitCode::kBadInput, {"neither a run", "config.toml"}, [&] { load(folder_ / "."); });
    expect_error(ExitCode::kBadInput, {"does not exist", "RUN/checkpoints/step_N or FILE.gguf"},
                 [&] { load(folder_ / "no"); });
}

// A manifest whose tensors are not its configuration's.
TEST_F(TrainedModelTest, RefusesTensorsThatAreNotTheConfigurations) {
    const std::string run = trained("gated").run.dir, folder = run + "/checkpoints/step_00000004";
    const Manifest manifest = read_manifest(folder);
    const auto with = [&](const std::string& from, const std::string& to) {
        Manifest other = manifest;
        const size_t at = other.state.config.find(from);
        ASSERT_NE(at, std::string::npos) << from;
        other.state.config.replace(at, from.size(), to);
        write_bytes(folder + "/MANIFEST", manifest_text(other));
    };
    with("gate = [\"elementwise\"]", "gate = [\"none\"]");
    expect_error(ExitCode::kBadInput, {"attn.gate.weight", "no parameter of the configuration"}, [&] { load(folder); });
    with("gate = [\"elementwise\"]", "gate = [\"headwise\"]");
    expect_error(ExitCode::kBadInput, {"attn.gate.weight", "wants"}, [&] { load(folder); });
    with("qk_norm = false", "qk_norm = true");
    expect_error(ExitCode::kBadInput, {"has no tensor", "q_norm"}, [&] { load(folder); });
    with("[model]", "[model]\nsecret = 1");
    expect_error(ExitCode::kBadInput, {"MANIFEST, config:", "unknown key 'secret'"}, [&] { load(folder); });
    with("[run]", "include = \"/etc/passwd\"\n[run]");
    expect_error(ExitCode::kBadInput, {"include"}, [&] { load(folder); });
    with("placeholders = 0", "placeholders = 5");
    EXPECT_EQ(load(folder).network().total_vocab(),
              manifest.tensors[static_cast<size_t>(manifest.find("parameters/wte.weight"))].shape[0]);
}

TEST_F(TrainedModelTest, NamesIds) {
    const TrainedModel task = load(trained("placeholder").run.dir);
    EXPECT_EQ(task.tokenizer(), nullptr);
    EXPECT_EQ(task.label(static_cast<int32_t>(task.network().vocab)), "<sink0>");
    EXPECT_EQ(task.label(0), "\\n");

    change_ = [](RunConfig& c) { c.data.source = "text", c.data.text = excerpt_path(); };
    const std::string run = trained("softmax").run.dir;
    const TrainedModel text = load(run);
    ASSERT_NE(text.tokenizer(), nullptr);
    EXPECT_EQ(text.tokenizer()->vocab_size(), text.network().vocab);
    EXPECT_EQ(text.tokenizer()->decode(text.tokenizer()->encode("To be")), "To be");
    EXPECT_EQ(text.label(text.tokenizer()->encode("T")[0]), "T");
    save_tokenizer(*make_byte_tokenizer(true), run + "/tokenizer.json");
    expect_error(ExitCode::kBadInput, {"tokenizer.json", "257 ids"}, [&] { load(run); });
}

}  // namespace
}  // namespace plimsoll
