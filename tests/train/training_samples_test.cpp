#include "train/training_samples.h"

#include <cstring>

#include "train/trainer.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

class TrainingSamplesTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    RunConfig config(const std::string& name, int64_t every) {
        RunConfig c;
        c.run.dir = folder_ / name, c.run.threads = 2, c.run.precision = "fp32";
        c.model.layers = 2, c.model.channels = 32, c.model.heads = 2, c.model.ffn = 48, c.model.context = 24;
        c.data.source = "text", c.data.text = excerpt_path();
        c.train.micro_batch = 4, c.train.max_steps = 7;
        c.optimizer.lr = 3e-2, c.schedule.warmup_steps = 1;  // so that three steps change what is drawn
        c.probes.enabled = false;
        c.train.sample_every = every, c.train.sample_prompt = "The ", c.train.sample_tokens = 12;
        return c;
    }
    static std::string parameters(Trainer& trainer) {
        const Tensor t = trainer.model().parameters();
        return {static_cast<const char*>(t.data), static_cast<size_t>(t.bytes())};
    }
};

TEST_F(TrainingSamplesTest, AreWrittenAndChangeNothing) {
    for (const char* precision : {"fp32", "bf16"}) {
        RunConfig plain = config(fmt::format("plain {}", precision), 0);
        RunConfig with = config(fmt::format("samples {}", precision), 3);
        plain.run.precision = with.run.precision = precision;
        Trainer one(plain, {}), two(with, {});
        ASSERT_EQ(one.train(), ExitCode::kOk);
        ASSERT_EQ(two.train(), ExitCode::kOk);
        EXPECT_EQ(parameters(one), parameters(two)) << precision;
        EXPECT_FALSE(std::filesystem::exists(plain.run.dir + "/samples.jsonl"));
        const std::vector<nlohmann::json> lines = read_lines(with.run.dir + "/samples.jsonl");
        ASSERT_EQ(lines.size(), 3u);
        for (size_t i = 0; i < 3; ++i) {
            EXPECT_EQ(lines[i]["step"], (std::vector<int>{3, 6, 7}[i]));
            EXPECT_EQ(lines[i]["prompt"], "The ");
            EXPECT_EQ(lines[i]["text"].get<std::string>().size(), 12u);  // characters of ASCII
        }
        EXPECT_NE(lines[0]["text"], lines[2]["text"]);
        EXPECT_NE(read_file(with.run.dir + "/log.txt", "log").find("sample 7/7: "), std::string::npos);
    }
}

// A resume writes the lines after its checkpoint again, and no others.
TEST_F(TrainingSamplesTest, AreThoseOfAnUninterruptedRunAfterAResume) {
    RunConfig whole = config("whole", 2), cut = config("cut", 2);
    whole.train.save_every = cut.train.save_every = 4;
    Trainer(whole, {}).train();
    Trainer(cut, {}).train();
    std::filesystem::remove_all(cut.run.dir + "/checkpoints/step_00000007");
    Trainer(cut, {.resume = Resume::kAuto}).train();
    RunConfig other = cut;
    other.train.sample_every = 5, other.train.sample_prompt = "A ", other.train.sample_tokens = 3;
    Trainer(other, {.resume = Resume::kAuto});  // may change between the parts of a run
    const auto wanted = read_lines(whole.run.dir + "/samples.jsonl"), seen = read_lines(cut.run.dir + "/samples.jsonl");
    EXPECT_EQ(seen, wanted);
    ASSERT_EQ(seen.size(), 4u);
}

TEST_F(TrainingSamplesTest, RefuseWhatCannotBeWritten) {
    const auto refuse = [&](std::initializer_list<std::string_view> parts,
                            const std::function<void(RunConfig&)>& change) {
        RunConfig c = config("refused", 1);
        change(c);
        expect_error(ExitCode::kBadInput, parts, [&] { Trainer(c, {.resume = Resume::kFresh}); });
    };
    refuse({"train.sample_every", "no tokenizer"},
           [](RunConfig& c) { c.data.source = "bigram_backcopy", c.data.text = "", c.data.val_samples = 4; });
    refuse({"train.sample_prompt", "byte 1"}, [](RunConfig& c) { c.train.sample_prompt = "T\x01"; });
    refuse({"train.sample_prompt", "empty"}, [](RunConfig& c) { c.train.sample_prompt = ""; });
    refuse({"train.sample_prompt has 24 tokens", "model.context = 24"},
           [](RunConfig& c) { c.train.sample_prompt = std::string(24, 'e'); });
    refuse({"train.sample_tokens is 0"}, [](RunConfig& c) { c.train.sample_tokens = 0; });
}

}  // namespace
}  // namespace plimsoll
