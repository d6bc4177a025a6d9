#include "train/config.h"

#include <gtest/gtest.h>

#include <filesystem>

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

TEST_F(ConfigTest, IncludesMayNestAndAreLookedUpFromTheFileThatNamesThem) {
    write("a/b/deep.toml", "[model]\nlayers = 1\nheads = 2\ncontext = 32\n");
    write("a/middle.toml", "include = \"b/deep.toml\"\n[model]\nheads = 4\n");
    write("other.toml", "[model]\ncontext = 64\n[train]\nclip = 0.5\n");
    const RunConfig config =
        load(write("top.toml", "include = [\"a/middle.toml\", \"other.toml\"]\n[train]\nkeep = 7\n"));
    EXPECT_EQ(config.model.layers, 1);    // from the innermost
    EXPECT_EQ(config.model.heads, 4);     // the includer wins
    EXPECT_EQ(config.model.context, 64);  // the later of two wins
    EXPECT_EQ(config.train.clip, 0.5);
    EXPECT_EQ(config.train.keep, 7);
    // The same file on two paths is no cycle; a cycle of two files is.
    EXPECT_EQ(load(write("twice.toml", "include = [\"other.toml\", \"top.toml\"]\n")).train.keep, 7);
    write("x.toml", "include = \"a/y.toml\"\n");
    write("a/y.toml", "include = \"../x.toml\"\n");
    expect_error(ExitCode::kBadInput, {"x.toml", "includes itself"}, [&] { load((folder_ / "x.toml")); });
    // A mistake is named by the file that holds it, not by the one that includes it.
    write("a/b/deep.toml", "[model]\n\nlayer = 1\n");
    expect_error(ExitCode::kBadInput, {"deep.toml:3", "'layer'"}, [&] { load((folder_ / "top.toml")); });
}

TEST_F(ConfigTest, VariantsAreFoundBesideTheFileAndAboveIt) {
    write("variants/gated.toml", "[run]\nvariant = \"far\"\n");
    const std::string file = write("experiments/deep/run.toml", "[run]\nvariant = \"own\"\n");
    EXPECT_EQ(load(file).run.variant, "own");
    EXPECT_EQ(load(file, {}, "gated").run.variant, "far");
    write("experiments/variants/gated.toml", "[run]\nvariant = \"near\"\n");
    EXPECT_EQ(load(file, {}, "gated").run.variant, "near");
    EXPECT_EQ(load(file, {}, write("elsewhere/mine.toml", "[run]\nvariant = \"a file\"\n")).run.variant, "a file");
    EXPECT_EQ(load(file, {"run.variant=override"}, "gated").run.variant, "override");
    write("experiments/variants/sigmoid.toml", "");
    expect_error(ExitCode::kBadInput, {"--variant gatid", "did you mean 'gated'", "Known: gated", "sigmoid"},
                 [&] { load(file, {}, "gatid"); });
    expect_error(ExitCode::kBadInput, {"none.toml"}, [&] { load(file, {}, (folder_ / "none.toml")); });
}

TEST_F(ConfigTest, OverridesAreTomlOrBareWords) {
    const std::string file = write("run.toml", "");
    const auto with = [&](const std::string& text) { return load(file, {text}); };
    EXPECT_EQ(with("run.name=bare").run.name, "bare");
    EXPECT_EQ(with("run.name=\"quoted\"").run.name, "quoted");
    EXPECT_EQ(with("run.name=").run.name, "");
    EXPECT_EQ(with("data.text=some where/it's = here.txt").data.text, "some where/it's = here.txt");
    EXPECT_EQ(with("data.text=C:\\x").data.text, "C:\\x");
    EXPECT_EQ(with("optimizer.lr=3").optimizer.lr, 3.0);  // an integer is a number
    EXPECT_EQ(with("optimizer.lr=1e-3").optimizer.lr, 1e-3);
    EXPECT_EQ(with("run.seed=1_000").run.seed, 1000);
    EXPECT_EQ(with("model.tied=false").model.tied, false);
    EXPECT_EQ(with("attention.gate=headwise").attention.gate, std::vector<std::string>{"headwise"});
    EXPECT_EQ(with("attention.gate=[\"none\", \"headwise\"]").attention.gate,
              (std::vector<std::string>{"none", "headwise"}));
    EXPECT_EQ(with("attention.window=7").attention.window, std::vector<int64_t>{7});
    EXPECT_EQ(load(file, {"run.seed=1", "run.seed=2"}).run.seed, 2);
    const auto refuse = [&](const std::string& text, std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] { with(text); });
    };
    refuse("train.max_steps=many", {"--set train.max_steps=many", "an integer", "\"many\""});
    refuse("train.max_steps=1e3", {"an integer", "1000"});
    refuse("optimizer.lr=inf", {"a finite number"});
    refuse("model.tied=yes", {"true or false", "\"yes\""});
    refuse("attention.window=[1, [2]]", {"attention.window", "an integer", "a list"});
    refuse("optimizer.kind=adam", {"optimizer.kind", "adamw, sgd, muon, orthoadam"});
    refuse("train=3", {"section.key=value"});
    refuse("=3", {"section.key=value"});
    refuse("", {"section.key=value"});
    refuse("model.layers.more=3", {"model.layers", "an integer", "a table"});
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
    refuse("[optimizer]\nlr = inf\n", {"optimizer.lr", "finite"});
    refuse("[optimizer]\nlr = -inf\n", {"optimizer.lr", "finite"});
    refuse("[model]\nlayers = 99999999999999999999\n", {"bad.toml:2:", "not TOML"});
    refuse("[model]\nlayers = 1979-05-27\n", {"model.layers", "a date or time"});
    refuse("[model]\nlayers = []\n", {"model.layers", "a list"});
    refuse("[model]\nlayers = 2\nlayers = 3\n", {"bad.toml:3:", "not TOML"});
    refuse("[model]\n\n[[model]]\nlayers = 3\n", {"bad.toml:3:", "not TOML"});
    refuse("[[model]]\nlayers = 3\n", {"bad.toml:1", "[model]"});
    refuse("[model\nlayers = 2\n", {"bad.toml:1:", "not TOML"});
    refuse("[model]\nlayers = 2 2\n", {"bad.toml:2:12:", "not TOML"});
    refuse("[run]\nname = \"open\n", {"bad.toml:2:", "not TOML"});
    refuse("[run]\nname = \"\xff\"\n", {"bad.toml:2:", "not TOML"});
    refuse(std::string("[run]\nname = \"\0\"\n", 15), {"bad.toml:2:", "not TOML"});
    refuse("[run]\nname = " + std::string(100000, '['), {"bad.toml:2:", "not TOML"});
    refuse("include = [\"good.toml\", 3]\n[model]\n", {"bad.toml:1"});
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
    refuse({"model.channels=12", "model.heads=4"}, {"rope", "even head size", "3"});
    refuse({"model.heads=4", "model.kv_heads=3"}, {"model.heads is 4", "model.kv_heads = 3"});
    refuse({"model.heads=0"}, {"model.heads is 0"});
    refuse({"model.channels=-4"}, {"model.channels is -4"});
    refuse({"model.context=8", "attention.placeholders=7"}, {"attention.placeholders is 7", "0 .. 6"});
    refuse({"model.context=8", "attention.placeholders=100"}, {"attention.placeholders is 100"});
    refuse({"model.context=99999999999"}, {"model.context is 99999999999"});
    refuse({"model.channels=9223372036854775807"}, {"model.channels"});
    refuse({"attention.weighting=softmix"}, {"'softmix'", "softmax", "sigmoid"});
    refuse({"attention.gate=wide"}, {"attention.gate", "'wide'", "headwise"});
    refuse({"attention.window=[]"}, {"attention.window"});
    refuse({"attention.query_key=tied"}, {"attention.query_key", "separate", "symmetric"});
    for (const char* key : {"stages", "chunks"})
        refuse({fmt::format("parallel.{}=2", key), "attention.qk_source=[\"input\", \"embedding\"]"},
               {"attention.qk_source = \"embedding\"", fmt::format("parallel.{} = 2", key)});
    for (const char* mode : {"on", "plan_only"}) {
        const std::string cad = fmt::format("cad.mode={}", mode);
        refuse({cad, "attention.prefix=4"}, {"cad.mode", mode, "attention.prefix = 4"});
        refuse({cad, "attention.key_bias=value"},
               {"cad.mode", mode, "attention.key_bias = \"value\"", "do not travel"});
        refuse({cad, "attention.pattern=[\"causal\", \"dilated\"]"},
               {"cad.mode", mode, "attention.pattern = \"dilated\""});
    }
    refuse({"attention.window=-1"}, {"attention.window is -1"});
    for (const std::string weighting : {"sigmoid", "sigmoid_normalized"})
        refuse({"attention.weighting=" + weighting, "attention.extra_column=learned"},
               {"attention.extra_column", weighting});
    for (const std::string bias : {"learned", "per_row", "constant"})
        for (const std::string weighting : {"softmax", "elu1", "linear", "sigmoid_normalized"})
            refuse({"attention.weighting=" + weighting, "attention.score_bias=" + bias},
                   {"attention.score_bias is", bias, "takes a bias", weighting, "log_n"});
    refuse({"train.log_every=0"}, {"train.log_every is 0"});
    refuse({"train.keep=0"}, {"train.keep is 0"});
    refuse({"train.eval_every=-1"}, {"train.eval_every is -1"});
    refuse({"run.seed=-1"}, {"run.seed is -1"});
    refuse({"run.threads=-1"}, {"run.threads is -1"});
    refuse({"optimizer.lr=-0.1"}, {"optimizer.lr is -0.1"});
    refuse({"schedule.decay_fraction=1.5"}, {"schedule.decay_fraction"});
    refuse({"data.val_fraction=1.0", "data.source=text", "data.text=x"}, {"data.val_fraction"});
}

// What is found wrong when all values are together is traced to where the value was set.
TEST_F(ConfigTest, ValuesThatCannotBeUsedAreNamedWithTheirPlace) {
    write("base.toml", "[model]\nheads = 4\nkv_heads = 3\n");
    const std::string file = write("top.toml", "include = \"base.toml\"\n[train]\n  keep = 0\nmax_steps = 5\n");
    const auto refuse = [&](std::vector<std::string> overrides, std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] { load(file, overrides).validate(); });
    };
    refuse({}, {"base.toml:2:9: model.heads is 4"});
    refuse({"model.kv_heads=2"}, {"top.toml:3:10: train.keep is 0"});
    refuse({"model.kv_heads=2", "train.keep=-1"}, {"--set train.keep=-1:1:12: train.keep is -1"});
    // `data.source` is no part of `data.sources`, and a default has no place.
    refuse({"model.kv_heads=2", "train.keep=1", "data.sources=[\"1 text x\"]", "data.source=text", "data.text=x"},
           {"--set data.sources=[\"1 text x\"]:1:14: data.sources"});
    const std::string wrong = write("wrong.toml", "[model]\n\n  layer = 3\n[run]\nname = [\n  1]\n");
    expect_error(ExitCode::kBadInput, {"wrong.toml:3:3: unknown key 'layer'"}, [&] { load(wrong); });
    expect_error(ExitCode::kBadInput, {"wrong2.toml:2:8: run.name wants a string"},
                 [&] { load(write("wrong2.toml", "[run]\nname = [1]\n")); });
}

// Every one of these crashed, hung, or filled the screen.
TEST_F(ConfigTest, HostileFilesAreRefusedInOneShortLine) {
    const auto message = [&](const std::string& text) {
        std::string what = "was accepted";
        const std::string file = write("hostile.toml", text);
        try {
            load(file);
        } catch (const Error& error) {
            what = error.what();
            EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(ExitCode::kBadInput)) << what;
        }
        EXPECT_LT(what.size(), 1000u);
        EXPECT_EQ(what.find_first_of("\n\x1b"), std::string::npos) << what;
        return what;
    };
    const auto expect_message = [&](const std::string& text, std::string_view part) {
        const std::string what = message(text);
        EXPECT_NE(what.find(part), std::string::npos) << "wanted '" << part << "' in: " << what;
    };
    std::string deep = "a";
    for (int i = 0; i < 100'000; ++i) deep += ".a";
    expect_message(deep + " = 1\n", "100000 dots");
    expect_message("[" + deep + "]\n", "100000 dots");
    expect_message("[model]\nlayers = { " + deep + " = 1 }\n", "100000 dots");
    // A string that ends in quotes ends the string; quotes in comments and escaped quotes do not begin one.
    expect_message("a = \"\"\"x\"\"\"\"\n" + deep + " = 1\n", "100000 dots");
    expect_message("a = \"\"\"x\"\"\"\"\"\n# it's\nb = \"\\\"\"\n" + deep + " = 1\n", "100000 dots");
    expect_message("a = ''\nb = '''it's'''\n" + deep + " = 1\n", "100000 dots");
    const std::string dots(2000, '.');
    for (const char* quote : {"\"", "'", "\"\"\"", "'''"})
        EXPECT_EQ(message("[run]\nname = " + (quote + dots) + quote + "  # it's " + dots + "\n"), "was accepted");
    expect_message("# " + std::string(2 << 20, 'x'), "2097154 bytes, wanted at most 1048576");
    expect_message("[model]\n\"" + std::string(900'000, 'x') + "\" = 1\n", "unknown key 'xxx");
    expect_message("[\"" + std::string(900'000, 'x') + "\"]\n", "unknown section [xxx");
    expect_message("[model]\nlayers = \"" + std::string(900'000, 'x') + "\"\n", "an integer");
    expect_message("[model]\nnorm = \"" + std::string(900'000, 'x') + "\"\n", "wanted one of rms");
    expect_message("[model]\n\"a\\nb\\u001b\" = 1\n", "'a\\x0ab\\x1b'");
    expect_message("include = \"" + std::string(5000, 'x') + "\"\n", "does not exist");
    expect_message("include = \"a\\u0000b\"\n", "include wants a path");
    expect_message("[data]\ntext = \"a\\u0000b\"\n", "without \\u0000");
    expect_message("[\n", "not TOML");
    expect_error(ExitCode::kBadInput, {"--set " + deep.substr(0, 60) + "...", "100000 dots"},
                 [&] { load(write("empty.toml", ""), {deep + "=1"}); });
    expect_error(ExitCode::kBadInput, {"--variant xxx", "..."},
                 [&] { load(write("empty.toml", ""), {}, std::string(5000, 'x')); });
    // Each file twice the work of the next.
    for (int i = 0; i < 40; ++i)
        write(fmt::format("{}.toml", i), fmt::format("include = [\"{0}.toml\", \"{0}.toml\"]\n", i + 1));
    write("40.toml", "");
    expect_error(ExitCode::kBadInput, {"more than 1000 files"}, [&] { load(folder_ / "0.toml"); });
}

// Products of sizes must not run over: a batch of 2^64 tokens is one of none.
TEST_F(ConfigTest, HugeNumbersAreRefusedByName) {
    const std::string good = write("good.toml", "[train]\nmax_steps = 10\n");
    for (const char* key : {"train.micro_batch", "run.threads", "train.batch_tokens", "train.max_steps",
                            "train.eval_samples", "train.keep", "schedule.warmup_steps", "probes.samples"})
        for (const char* value : {"9223372036854775807", "9007199254740992000", "1152921504606846976"})
            expect_error(ExitCode::kBadInput, {key}, [&] { load(good, {std::string(key) + "=" + value}).validate(); });
    expect_error(ExitCode::kBadInput, {"train.max_tokens"}, [&] {
        load(good, {"train.max_steps=0", "train.max_tokens=9223372036854775807"}).validate();
    });
}

// toml++ would take some of these for white space, by chance.
TEST_F(ConfigTest, CharactersBeyondAsciiStandInStringsAndComments) {
    const auto load = [&](const std::string& text, const std::vector<std::string>& overrides = {}) {
        return load_config({.file = write_text(folder_ / "c.toml", text), .variant = {}, .overrides = overrides});
    };
    EXPECT_EQ(load("\xef\xbb\xbf# caf\u00e9\n[run]\nname = \"caf\u00e9\"\n").run.name, "caf\u00e9");
    EXPECT_EQ(load("[run]\nname = '''\\\u00e9'''\n").run.name, "\\\u00e9");
    EXPECT_EQ(load("[run]\nname = \"\"\"a\\\\\u00e9\"\"\"\n").run.name, "a\\\u00e9");
    const std::string message = "not TOML: a character beyond ASCII outside of a string";
    expect_error(ExitCode::kBadInput, {"c.toml:1:1: " + message}, [&] { load("\xef\xbb\xbb# a\n"); });
    expect_error(ExitCode::kBadInput, {"c.toml:2:3: " + message}, [&] { load("[run]\n  \u00e9 = 1\n"); });
    expect_error(ExitCode::kBadInput, {"c.toml:3:2: " + message},
                 [&] { load("[run]\nname = \"\"\"a\\\n \u00e9\"\"\"\n"); });
    EXPECT_EQ(load("", {"run.name=\u00e9t\u00e9"}).run.name, "\u00e9t\u00e9");
}

// toml++ has no double for an integer beyond 2^53.
TEST_F(ConfigTest, IntegersOfAnySizeAreNumbers) {
    const auto weight_decay = [&](const std::string& value) {
        return load_config({.file = write_text(folder_ / "c.toml", "[optimizer]\nweight_decay = " + value + "\n"),
                            .variant = {},
                            .overrides = {}})
            .optimizer.weight_decay;
    };
    EXPECT_EQ(weight_decay("3"), 3.0);
    EXPECT_EQ(weight_decay("9223372036854775807"), 9223372036854775807.0);
    EXPECT_EQ(weight_decay("-9007199254740993"), -9007199254740992.0);
}

TEST_F(ConfigTest, BatchesAndStepsFollowFromTokens) {
    const std::string file = write("good.toml", "[train]\nmicro_batch = 4\n[model]\ncontext = 32\n");
    RunConfig config = load(file, {"train.max_tokens=1000"});
    EXPECT_EQ(config.batch_tokens(), 128);  // one micro batch unless said otherwise
    EXPECT_EQ(config.micro_batches(), 1);
    EXPECT_EQ(config.max_steps(), 8);  // rounded up
    config.train.batch_tokens = 512;
    config.validate();
    EXPECT_EQ(config.micro_batches(), 4);
    EXPECT_EQ(config.max_steps(), 2);
    EXPECT_EQ(config.directory(), "runs/run/softmax");
    const auto refuse = [&](int64_t tokens, std::initializer_list<std::string_view> parts) {
        config.train.batch_tokens = tokens;
        expect_error(ExitCode::kBadInput, parts, [&] { config.validate(); });
    };
    refuse(500, {"4 x 32 = 128", "384 and 512"});
    refuse(127, {"128 and 256"});
    refuse(1, {"128 and 256"});
    refuse(129, {"128 and 256"});
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
    for (const double lr : {0.0, 1.0, 1e20, 1e-300, 0.1 + 0.2, 5e-324, 1.7976931348623157e308}) {
        config.optimizer.lr = lr;
        EXPECT_EQ(load(write("resolved.toml", resolved_toml(config))).optimizer.lr, lr);
    }
    for (const std::string name : {"", "tab\t", "\x01\x7f", "# no comment", "\u00e9", "'", "a = 3"}) {
        config.run.name = name;
        EXPECT_EQ(load(write("resolved.toml", resolved_toml(config))).run.name, name);
    }
    RunConfig other = config;
    other.model.layers += 1;
    ASSERT_EQ(config_differences(config, other).size(), 1u);
    EXPECT_NE(config_differences(config, other)[0].find("model.layers"), std::string::npos);
}

TEST_F(ConfigTest, GroupsOfParametersAreTables) {
    const std::string text =
        "[[optimizer.groups]]\nmatch = [\"blocks.*.attn.*\", \"wte.weight\"]\nlr_scale = 2\n"
        "[[optimizer.groups]]\nmatch = \"*.gain\"\nweight_decay = 0.125\n";
    RunConfig config = load(write("run.toml", "[train]\nmax_steps = 1\n" + text));
    const std::vector<ParameterGroup> expected{
        {.match = {"blocks.*.attn.*", "wte.weight"}, .lr_scale = 2, .weight_decay = {}},
        {.match = {"*.gain"}, .lr_scale = 1, .weight_decay = 0.125}};
    EXPECT_EQ(config.optimizer.groups, expected);
    EXPECT_NO_THROW(config.validate());
    EXPECT_NE(resolved_toml(config).find("groups = [{match = [\"blocks.*.attn.*\", \"wte.weight\"], lr_scale = 2.0}, "
                                         "{match = [\"*.gain\"], lr_scale = 1.0, weight_decay = 0.125}]"),
              std::string::npos)
        << resolved_toml(config);
    const RunConfig back = parse_config(resolved_toml(config), "resolved");
    EXPECT_EQ(back.optimizer.groups, expected);
    EXPECT_EQ(config_differences(config, back), std::vector<std::string>{});
    // A later file or override replaces the list, and one table stands for a list of one.
    const RunConfig one =
        load(write("run.toml", text), {"optimizer.groups={match = \"lm_head.weight\", lr_scale = 0}"});
    EXPECT_EQ(one.optimizer.groups, (std::vector<ParameterGroup>{{.match = {"lm_head.weight"}, .lr_scale = 0}}));
    ASSERT_EQ(config_differences(config, one).size(), 2u);  // and train.max_steps
    EXPECT_TRUE(load(write("run.toml", text), {"optimizer.groups=[]"}).optimizer.groups.empty());

    const auto refuse = [&](const std::string& group, std::initializer_list<std::string_view> parts) {
        expect_error(ExitCode::kBadInput, parts, [&] {
            load(write("bad.toml", "[train]\nmax_steps = 1\n[[optimizer.groups]]\n" + group)).validate();
        });
    };
    refuse("match = \"wte.weight\"\nlr_scal = 2\n", {"bad.toml:5", "'lr_scal'", "optimizer.groups", "'lr_scale'"});
    refuse("lr_scale = 2\n", {"bad.toml:3", "optimizer.groups", "without match"});
    refuse("match = []\n", {"optimizer.groups", "without match"});
    refuse("match = 3\n", {"bad.toml:4", "optimizer.groups.match", "a string", "3"});
    refuse("match = \"*\"\nlr_scale = \"big\"\n", {"bad.toml:5", "optimizer.groups.lr_scale", "a number"});
    refuse("match = \"*\"\nlr_scale = -1\n", {"optimizer.groups.lr_scale is -1", "at least 0"});
    refuse("match = \"*\"\nlr_scale = inf\n", {"optimizer.groups.lr_scale", "finite"});
    refuse("match = \"*\"\nweight_decay = -0.5\n", {"optimizer.groups.weight_decay is -0.5"});
    refuse("match = [\"wte.weight\", \"wte.wieght\"]\n",
           {"bad.toml:3", "optimizer.groups[0]", "'wte.wieght'", "wte.weight", "blocks.0.attn.qkv.weight"});
    refuse("match = \"blocks.*\"\n[[optimizer.groups]]\nmatch = \"blocks.0.*\"\n",
           {"optimizer.groups[1]", "in groups before it"});
    expect_error(ExitCode::kBadInput, {"optimizer.groups", "tables such as", "\"wte.weight\""},
                 [&] { load(write("run.toml", ""), {"optimizer.groups=wte.weight"}); });
}

TEST_F(ConfigTest, EveryKeyIsExplained) {
    RunConfig config;
    for (const ConfigField& field : config_fields(config)) {
        EXPECT_GT(field.doc.size(), 10u) << field.path();
        EXPECT_EQ(field.doc.find_first_of("\n\t"), std::string::npos) << field.path() << ": a comment is one line";
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
        // Differential attention wants more heads than the quickstart's one, merged queries and keys key heads of all
        // channels, symmetric ones as many as query heads.
        const char* key_heads = entry.path().stem() == "symmetric_qk" ? "model.kv_heads=4" : "model.kv_heads=2";
        const RunConfig config = load((configs / "quickstart.toml").string(),
                                      {"model.heads=4", key_heads, "model.head_size=64"}, entry.path().string());
        EXPECT_NO_THROW(config.validate()) << entry.path();
        const std::string text =
            read_file(entry.path().string(), "variant");  // its own name, or that of what it changes
        EXPECT_NE(std::min(text.find("variant = "), text.find("include = ")), std::string::npos) << entry.path();
        ++variants;
    }
    for (const auto& entry : fs::directory_iterator(configs / "experiments"))
        EXPECT_NO_THROW(load(entry.path().string(), {"data.text=given on the command line"}).validate())
            << entry.path();
    EXPECT_GE(models, 14);
    EXPECT_GE(variants, 10);
}

}  // namespace
}  // namespace plimsoll
