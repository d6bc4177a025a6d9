#include "train/config.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "train/schedule.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

class ConfigTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    std::string write(const std::string& name, const std::string& text) { return write_text(folder_ / name, text); }
    static RunConfig load(const std::string& file, std::vector<std::string> overrides = {}, std::string variant = {}) {
        return load_config({.file = file, .variant = std::move(variant), .overrides = std::move(overrides)});
    }
};

TEST_F(ConfigTest, LaterSourcesWin) {
    write("base/model.toml", "[model]\nlayers = 3\nchannels = 64\n[run]\nname = \"base\"\n");
    write("variants/sigmoid.toml", "[attention]\nweighting = \"sigmoid\"\n[run]\nvariant = \"sigmoid\"\n");
    const std::string file =
        write("runs/own.toml", "include = \"../base/model.toml\"\n[model]\nchannels = 96\n[optimizer]\nlr = 1\n");
    const RunConfig config =
        load(file, {"optimizer.lr=0.5", "run.name=override", "attention.window=[1, 2]", "model.bias=true"}, "sigmoid");
    EXPECT_EQ(config.model.layers, 3);
    EXPECT_EQ(config.model.channels, 96);
    EXPECT_EQ(config.optimizer.lr, 0.5);
    EXPECT_EQ(config.run.name, "override");
    EXPECT_EQ(config.run.variant, "sigmoid");
    EXPECT_EQ(config.attention.weighting, std::vector<std::string>{"sigmoid"});  // one value is a list of one
    EXPECT_EQ(config.attention.window, (std::vector<int64_t>{1, 2}));
    EXPECT_TRUE(config.model.bias);
}

TEST_F(ConfigTest, MistakesAreNamedWithFileLineAndNearestKey) {
    const auto refuse = [&](const std::string& text, std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] { load(write("bad.toml", text)); });
    };
    refuse("[model]\nlayers = 2\nchanels = 3\n", {"bad.toml:3", "chanels", "'channels'"});
    refuse("\n[modle]\nlayers = 2\n", {"bad.toml:2", "[modle]", "[model]"});
    refuse("[model]\nlayers = \"two\"\n", {"bad.toml:2", "model.layers", "integer", "\"two\""});
    refuse("[model]\nlayers = 2.5\n", {"model.layers", "integer", "2.5"});
    refuse("[model]\nbias = 1\n", {"model.bias", "true or false"});
    refuse("[optimizer]\nlr = true\n", {"optimizer.lr", "a number"});
    refuse("[optimizer]\nlr = nan\n", {"optimizer.lr", "finite"});
    refuse("[model]\nnorm = \"batch\"\n", {"bad.toml:2", "model.norm", "rms, layer"});
    refuse("[attention]\nwindow = [1, \"x\"]\n", {"attention.window", "integer"});
    refuse("[model\nlayers = 2\n", {"bad.toml:1:", "not TOML"});
    refuse("model = 3\n", {"[model]"});
    refuse("include = \"nowhere.toml\"\n", {"bad.toml:1", "nowhere.toml", "does not exist"});
    refuse("include = \"bad.toml\"\n", {"includes itself"});
    refuse("include = 3\n", {"include wants a path"});
    expect_error(ExitCode::kBadInput, {"no_such.toml"}, [&] { load((folder_ / "no_such.toml")); });
    const std::string good = write("good.toml", "[model]\nlayers = 2\n");
    expect_error(ExitCode::kBadInput, {"--set", "section.key=value"}, [&] { load(good, {"layers"}); });
    expect_error(ExitCode::kBadInput, {"--set model.layer=2", "'layers'"}, [&] { load(good, {"model.layer=2"}); });
    write("variants/sigmoid.toml", "");
    expect_error(ExitCode::kBadInput, {"sigmiod", "'sigmoid'"}, [&] { load(good, {}, "sigmiod"); });
}

TEST_F(ConfigTest, ValuesThatCannotBeUsedAreRefusedByName) {
    const std::string good = write("good.toml", "[train]\nmax_steps = 10\n");
    const auto refuse = [&](std::vector<std::string> overrides, std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] { load(good, overrides).validate(); });
    };
    load(good).validate();
    refuse({"train.batch_tokens=1000", "train.micro_batch=2", "model.context=256"},
           {"train.batch_tokens is 1000", "512", "1024"});
    refuse({"train.max_tokens=5"}, {"train.max_steps = 10", "train.max_tokens = 5"});
    refuse({"train.max_steps=0"}, {"both 0"});
    refuse({"train.micro_batch=0"}, {"train.micro_batch is 0"});
    refuse({"optimizer.beta2=1.0"}, {"optimizer.beta2"});
    refuse({"schedule.final_fraction=2.0"}, {"schedule.final_fraction"});
    refuse({"train.clip=-1.0"}, {"train.clip"});
    refuse({"model.heads=3"}, {"model.channels is 128", "model.heads = 3"});
    refuse({"model.context=1"}, {"model.context"});
    refuse({"model.layers=1000000"}, {"model.layers"});
    refuse({"train.shared_placeholders=300"}, {"train.shared_placeholders"});
    refuse({"probes.tokens=1"}, {"probes.tokens"});
}

TEST_F(ConfigTest, TheResolvedFileReadsBackAsTheSame) {
    RunConfig config;
    config.run.name = "quotes \" and \\ and\nlines";
    config.optimizer.lr = 1.0 / 3;
    config.attention.window = {0, 7};
    config.data.sources = {"0.5 text a.txt", "0.5 text b.txt"};
    const RunConfig back = load(write("resolved.toml", resolved_toml(config)));
    EXPECT_EQ(config_differences(config, back), std::vector<std::string>{});
    EXPECT_EQ(resolved_toml(back), resolved_toml(config));
    EXPECT_EQ(back.optimizer.lr, 1.0 / 3);
    RunConfig other = config;
    other.model.layers += 1;
    ASSERT_EQ(config_differences(config, other).size(), 1u);
    EXPECT_NE(config_differences(config, other)[0].find("model.layers"), std::string::npos);
}

TEST_F(ConfigTest, EveryKeyIsExplained) {
    RunConfig config;
    for (const ConfigField& field : config_fields(config)) {
        EXPECT_GT(field.doc.size(), 10u) << field.path();
        EXPECT_NE(config_reference().find("  " + field.key + " = "), std::string::npos) << field.path();
    }
}

// Every file in configs/ loads, and its model can be built.
TEST_F(ConfigTest, ShippedFilesAreValid) {
    namespace fs = std::filesystem;
    const fs::path configs = PLIMSOLL_SOURCE_DIR "/configs";
    int models = 0, variants = 0;
    for (const auto& entry : fs::directory_iterator(configs / "models")) {
        RunConfig config = load(entry.path().string(), {"train.max_steps=1", "train.max_tokens=0"});
        EXPECT_NO_THROW(config.validate()) << entry.path();
        ++models;
    }
    for (const auto& entry : fs::directory_iterator(configs / "variants")) {
        const RunConfig config = load((configs / "quickstart.toml").string(), {}, entry.path().string());
        EXPECT_NO_THROW(config.validate()) << entry.path();
        EXPECT_NE(read_file(entry.path().string(), "variant").find("variant = "), std::string::npos) << entry.path();
        ++variants;
    }
    for (const auto& entry : fs::directory_iterator(configs / "experiments"))
        EXPECT_NO_THROW(load(entry.path().string(), {"data.text=given on the command line"}).validate())
            << entry.path();
    EXPECT_GE(models, 14);
    EXPECT_GE(variants, 10);
}

TEST(Schedule, FollowsItsFormulas) {
    ScheduleSection s{.kind = "cosine", .warmup_steps = 10, .final_fraction = 0.1, .decay_fraction = 0.2};
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 0, 111), 0.2);   // first of ten warmup steps
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 9, 111), 2.0);   // last
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 10, 111), 2.0);  // p = 0
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 60, 111), 1.1);  // p = 1/2: the mean of 1 and 0.1
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 110, 111), 0.2);
    s.kind = "linear";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 60, 111), 1.1);
    EXPECT_NEAR(learning_rate(s, 2.0, 35, 111), 2 * (1 - 0.9 * 0.25), 1e-12);
    s.kind = "constant";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 110, 111), 2.0);
    s.kind = "wsd";
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 79, 101), 2.0);
    EXPECT_NEAR(learning_rate(s, 2.0, 81 + 19, 101), 0.2, 1e-12);
    EXPECT_NEAR(learning_rate(s, 2.0, 86, 101), 2 * (0.1 + 0.9 * (1 - std::sqrt(5.0 / 19))), 1e-12);
    EXPECT_DOUBLE_EQ(learning_rate(s, 2.0, 3, 5), 0.8);  // a run shorter than its warmup
}

}  // namespace
}  // namespace plimsoll
