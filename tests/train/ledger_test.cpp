#include "train/ledger.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "train/json_lines.h"
#include "train_test_support.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class LedgerTest : public testing::Test {
  protected:
    TemporaryFolder folder_;

    // A run's directory as a finished run leaves it.
    std::string make_run(const std::string& name, const RunConfig& config = {}) {
        const std::string run = folder_ / name;
        write_text(run + "/config.toml", resolved_toml(config));
        write_text(run + "/run.json",
                   R"({"status":"done","steps":4,"max_steps":4,"data_hash":"abc","tokens_per_second":1000.0,)"
                   R"("seconds":2.5,"params":17,"flops_per_token":99.0})");
        write_text(run + "/metrics.jsonl",
                   "{\"step\":3,\"loss\":3.5,\"seconds\":1.5}\n{\"step\":4,\"loss\":3.25,\"seconds\":2.0}\n{\"st");
        write_text(run + "/evals.jsonl",
                   "{\"step\":0,\"loss\":1.0}\n{\"step\":2,\"loss\":3.0}\n{\"step\":3,\"loss\":null}\n"
                   "{\"step\":4,\"loss\":3.125}\n");
        write_text(run + "/probes.jsonl",
                   R"({"step":4,"per_head":{"sink_rate":[[0,100],[50,null]],"row_mass":[[null,null],[null,null]]},)"
                   R"("per_layer":{"residual_peak_ratio":[9,1,2.5],"massive_ratio":[1,7,3]}})"
                   "\n");
        return run;
    }
    RunEnd end_of(const std::string& name, const std::string& parent = {}) {
        return {.directory = folder_ / name, .parent = parent};
    }
    std::vector<json> ledger() { return read_lines(folder_ / "ledger.jsonl"); }
};

TEST_F(LedgerTest, ALineSaysWhatCameOut) {
    RunConfig config;
    config.run.name = "book", config.run.variant = "gated", config.run.seed = 3;
    make_run("one", config);
    RunEnd end = end_of("one");
    end.ranks = 2;
    const json line = ledger_line(end);
    const json wanted{{"run", "one"},
                      {"name", "book"},
                      {"variant", "gated"},
                      {"seed", 3},
                      {"parent", nullptr},
                      {"change", nullptr},
                      {"config_diff", nullptr},
                      {"data_hash", "abc"},
                      {"steps", 4},
                      {"max_steps", 4},
                      {"loss_final", 3.25},
                      {"loss_val", 3.125},
                      {"loss_best", 3.0},
                      {"step_best", 2},
                      {"seconds", 2.5},
                      {"tokens_per_second", 1000.0},
                      {"params", 17},
                      {"flops_per_token", 99.0},
                      {"ranks", 2},
                      {"exit_code", 0},
                      {"status", "done"}};
    for (const auto& [key, value] : wanted.items()) EXPECT_EQ(line.at(key), value) << key;
    EXPECT_EQ(line["probes"], (json{{"sink_rate", 50.0}, {"residual_peak_ratio", 2.5}, {"massive_ratio", 7.0}}));
    EXPECT_GT(line["time"].get<int64_t>(), 1'600'000'000);
    EXPECT_FALSE(line["commit"].get<std::string>().empty());
    EXPECT_EQ(line.size(), wanted.size() + 3);
}

// run.json is of the start then: the step's lines know more.
TEST_F(LedgerTest, AFailedRunHasTheNumbersOfItsLastStep) {
    make_run("one");
    RunEnd end = end_of("one");
    end.code = ExitCode::kInternal, end.status = RunStatus::kFailed;
    const json line = ledger_line(end);
    EXPECT_EQ(line["exit_code"], 70);
    EXPECT_EQ(line["status"], "failed");
    EXPECT_EQ(line["seconds"], 2.0);
    EXPECT_TRUE(line["tokens_per_second"].is_null());
    EXPECT_EQ(line["steps"], 4);
}

TEST_F(LedgerTest, AFencedRunHasNoNumbersAndARunBeforeItsFirstStepFew) {
    make_run("one");
    RunEnd end = end_of("one");
    end.code = ExitCode::kTransient, end.status = RunStatus::kFenced;
    const json fenced = ledger_line(end);
    for (const char* key : {"steps", "loss_final", "loss_best", "probes", "seconds", "data_hash", "params"})
        EXPECT_TRUE(fenced.at(key).is_null()) << key;
    for (const char* name : {"run.json", "metrics.jsonl", "evals.jsonl", "probes.jsonl"})
        fs::remove(folder_ / ("one/" + std::string(name)));
    end.status = RunStatus::kFailed;
    const json early = ledger_line(end);
    EXPECT_EQ(early["steps"], 0);
    EXPECT_EQ(early["probes"], json::object());
    for (const char* key : {"loss_final", "loss_val", "loss_best", "step_best", "params"})
        EXPECT_TRUE(early.at(key).is_null()) << key;
    fs::remove(folder_ / "one/config.toml");
    expect_error(ExitCode::kBadInput, {"config.toml"}, [&] { append_to_ledger(end); });
}

TEST_F(LedgerTest, TheParentIsTheRunBeforeThatIsStillThere) {
    RunConfig config;
    for (const char* name : {"a", "b", "c", "d"}) make_run(name, config), config.run.seed += 1;
    append_to_ledger(end_of("a"));
    append_to_ledger(end_of("b"));
    fs::remove_all(folder_ / "b");
    append_to_ledger(end_of("c/"));  // a slash at the end is no other name
    append_to_ledger(end_of("d", folder_ / "a/"));
    append_to_ledger(end_of("c"));  // a later process of it: the same parent
    append_to_ledger(end_of("a"));  // none, as before
    const std::vector<json> lines = ledger();
    ASSERT_EQ(lines.size(), 6u);
    EXPECT_TRUE(lines[0]["parent"].is_null());
    EXPECT_EQ(lines[1]["parent"], "a");
    EXPECT_EQ(lines[1]["change"], "run.seed 42 -> 43");
    EXPECT_EQ(lines[2]["run"], "c");
    EXPECT_EQ(lines[2]["parent"], "a");
    EXPECT_EQ(lines[2]["config_diff"], (json{{"run.seed", {42, 44}}}));
    EXPECT_EQ(lines[3]["parent"], "a");
    EXPECT_EQ(lines[4]["parent"], "a");
    EXPECT_TRUE(lines[5]["parent"].is_null());
}

TEST_F(LedgerTest, AParentMayLieElsewhere) {
    RunConfig config;
    make_run("here/a", config);
    config.optimizer.lr = 0.5;
    make_run("there/b", config);
    const json line = ledger_line(end_of("there/b", folder_ / "here/a"));
    EXPECT_EQ(line["parent"], "../here/a");
    EXPECT_EQ(line["change"], "optimizer.lr 0.0003 -> 0.5");
    write_text(folder_ / "here/a/config.toml", "[model]\nno_such_key = 1\n");  // of another version
    const json unknown = ledger_line(end_of("there/b", folder_ / "here/a"));
    EXPECT_EQ(unknown["parent"], "../here/a");
    EXPECT_TRUE(unknown["change"].is_null());
    expect_error(ExitCode::kBadInput, {"--parent", "no run is there"}, [&] { check_parent(folder_ / "here"); });
    check_parent("");
}

TEST_F(LedgerTest, HostileLinesAreNoParents) {
    make_run("a");
    write_text(folder_ / "ledger.jsonl",
               "{\"run\":7}\n{\"run\":\"\"}\n{\"run\":\"gone\"}\n[]\n{\"run\":\"a\",\"parent\":[");
    EXPECT_TRUE(ledger_line(end_of("a"))["parent"].is_null());
    append_to_ledger(end_of("a"));
    EXPECT_EQ(last_json_line(folder_ / "ledger.jsonl")["run"], "a");
}

TEST_F(LedgerTest, ChangesAreOneLine) {
    RunConfig parent, own;
    EXPECT_EQ(change_text(config_change(parent, own)), "none");
    own.run.name = "other", own.run.dir = "x", own.run.threads = 3, own.run.variant = "sigmoid",
    own.train.save_every = 9;
    EXPECT_EQ(change_text(config_change(parent, own)), "none");
    own.attention.weighting = {"sigmoid"}, own.optimizer.lr = 0.003;
    EXPECT_EQ(change_text(config_change(parent, own)),
              "attention.weighting softmax -> sigmoid, optimizer.lr 0.0003 -> 0.003");
    // Lists of two strings are no objects.
    parent.attention.weighting = {"softmax", "sigmoid"}, own.attention.weighting = {"sigmoid", "softmax"};
    const json change = config_change(parent, own);
    EXPECT_EQ(change["attention.weighting"][1], (json::array({"sigmoid", "softmax"})));
    EXPECT_NE(change_text(change).find(R"(attention.weighting ["softmax","sigmoid"] -> ["sigmoid","softmax"])"),
              std::string::npos);
    own.model.layers = 3, own.model.channels = 1234567, own.data.text = std::string(1000, 'x'), own.train.clip = 0.5;
    own.schedule.warmup_steps = 123, own.train.micro_batch = 3;
    const std::string text = change_text(config_change(parent, own));
    EXPECT_LT(text.size(), 140u);
    EXPECT_NE(text.find("and "), std::string::npos);
    EXPECT_TRUE(text.ends_with(" more")) << text;
}

}  // namespace
}  // namespace plimsoll
