// Folders of Hugging Face's transformers, against models and logits that it wrote (tests/golden/hf/make_fixtures.py).
#include <nlohmann/json.hpp>

#include "export_support.h"
#include "train/export/hf_export.h"
#include "train/export/safetensors_file.h"

namespace plimsoll {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class HfTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    int runs_ = 0;

    static std::string fixture(const std::string& name) {
        return std::string(PLIMSOLL_SOURCE_DIR) + "/tests/golden/hf/" + name;
    }
    std::string import(const std::string& from) {
        const std::string run = folder_ / fmt::format("run{}", runs_++);
        import_safetensors(from, run, "test");
        return run;
    }
    static TrainedModel load(const std::string& path) {
        return load_trained_model(path, [](const std::string& why) { ADD_FAILURE() << why; });
    }
    // A copy of a fixture in which one file has another text.
    std::string changed(const std::string& name, const std::string& file, std::string_view from, std::string_view to) {
        const std::string copy = folder_ / fmt::format("copy{}", runs_++);
        fs::copy(fixture(name), copy);
        write_bytes(copy + "/" + file, with(read_file(copy + "/" + file, "test"), from, to));
        return copy;
    }
    void refuse(const std::string& from, std::initializer_list<std::string_view> parts) {
        const std::string run = folder_ / fmt::format("run{}", runs_++);
        expect_error(ExitCode::kBadInput, parts, [&] { import_safetensors(from, run, "test"); });
        EXPECT_FALSE(fs::exists(run)) << run;
    }
};

// Sums in fp32 in another order differ by some 1e-6 of the largest logit.
TEST_F(HfTest, ImportedModelsHaveTheLogitsOfTransformers) {
    for (const char* name : {"llama", "mistral", "qwen2", "qwen3", "gpt2", "gated_headwise", "gated_elementwise"}) {
        const json golden = json::parse(read_file(fixture(name) + "/logits.json", "test"));
        const auto ids = golden.at("ids").get<std::vector<int32_t>>();
        TrainedModel model = load(import(fixture(name)));
        for (const DType precision : {DType::kF32, DType::kF64}) {
            const std::vector<double> logits = logits_of(model, ids, precision, 2);
            double largest = 0, difference = 0;
            for (size_t i = 0; i < ids.size(); ++i) {
                const auto row = golden.at("logits")[i].get<std::vector<double>>();
                ASSERT_EQ(row.size(), logits.size() / ids.size());
                for (size_t v = 0; v < row.size(); ++v) {
                    largest = std::max(largest, std::abs(row[v]));
                    difference = std::max(difference, std::abs(row[v] - logits[i * row.size() + v]));
                }
            }
            EXPECT_GT(largest, 1.0) << name;
            EXPECT_LT(difference, 1e-5 * largest) << name << " " << name_of(precision);
        }
    }
}

TEST_F(HfTest, WhatWasImportedGoesOutAgainToTheBit) {
    for (const char* name : {"llama", "qwen3", "gpt2", "gated_headwise", "gated_elementwise"}) {
        const std::string out = folder_ / name;
        export_safetensors(load(import(fixture(name))), out, TensorType::kF32);
        const SafetensorsFile before(fixture(name) + "/model.safetensors"), after(out + "/model.safetensors");
        for (const auto& [tensor, entry] : before.tensors()) {
            ASSERT_TRUE(after.tensors().contains(tensor)) << name << " " << tensor;
            EXPECT_EQ(after.tensors().at(tensor).shape, entry.shape);
            std::vector<float> a(static_cast<size_t>(entry.elements())), b(a.size());
            before.read(tensor, a), after.read(tensor, b);
            EXPECT_EQ(a, b) << name << " " << tensor;
        }
        EXPECT_EQ(before.tensors().size(), after.tensors().size());
        // And config.json says the same, as far as it speaks of the network.
        const json was = json::parse(read_file(fixture(name) + "/config.json", "test")),
                   is = json::parse(read_file(out + "/config.json", "test"));
        for (const char* key : {"model_type", "architectures", "hidden_size", "head_dim", "num_key_value_heads",
                                "rms_norm_eps", "layer_norm_epsilon", "n_inner", "n_positions", "tie_word_embeddings",
                                "attention_bias", "mlp_bias", "vocab_size", "headwise_attn_output_gate", "use_qk_norm"})
            if (was.contains(key)) EXPECT_EQ(is.value(key, json()), was[key]) << name << " " << key;
    }
}

// Own models, all parameters random: out, in, and the same logits to the bit.
TEST_F(HfTest, OwnModelsComeBackToTheBit) {
    NetworkConfig llama = tiny_llama(), bare = tiny_llama(), gated = tiny_llama(), gpt2 = tiny_gpt2(),
                  sink = tiny_llama();
    bare.model.qk_norm = false, bare.model.bias = true, bare.model.tied = true;
    gated.attention.gate = {"headwise"}, gated.model.heads = 4, gated.model.kv_heads = 2;
    gpt2.model.bias = false, gpt2.model.tied = false;
    sink.attention.placeholders = 2;
    for (const NetworkConfig& network : {llama, bare, gated, gpt2, sink}) {
        TrainedModel model = random_model(network);
        const std::string out = folder_ / fmt::format("out{}", runs_++);
        const HfReport report = export_safetensors(model, out, TensorType::kF32);
        const std::string run = import(out);
        TrainedModel again = load(run);
        EXPECT_EQ(some_logits(again), some_logits(model)) << report.architecture;
        EXPECT_EQ(again.network().attention.placeholders, network.attention.placeholders);
        // Biases of zero that GPT-2 must have are parameters after it.
        if (network.model.position != "learned") {
            EXPECT_EQ(bytes_of_tensor(again.parameters()), bytes_of_tensor(model.parameters()));
        }
        expect_error(ExitCode::kBadInput, {run, "already holds a run"}, [&] { import_safetensors(out, run, "test"); });
    }
    // In bf16 what was rounded comes back as it was rounded.
    const TrainedModel model = random_model(llama);
    export_safetensors(model, folder_ / "bf16", TensorType::kBF16);
    const TrainedModel again = load(import(folder_ / "bf16"));
    for (int64_t i = 0; i < model.parameters().elements(); ++i)
        ASSERT_EQ(again.parameters().ptr<float>()[i], static_cast<float>(bf16(model.parameters().ptr<float>()[i])));
}

TEST_F(HfTest, TokenizersGoAlong) {
    NetworkConfig c = tiny_llama();
    c.vocab = 257, c.attention.placeholders = 1;
    TrainedModel model = random_model(c);
    model.set_tokenizer(make_byte_tokenizer(true));
    export_safetensors(model, folder_ / "out", TensorType::kF32);
    const json tokenizer = json::parse(read_file(folder_ / "out/tokenizer.json", "test"));
    EXPECT_EQ(tokenizer.at("model").at("vocab").size(), 256u);
    EXPECT_EQ(tokenizer.at("model").at("vocab").at("\u0120"), 32);
    EXPECT_EQ(tokenizer.at("added_tokens").size(), 2u);
    EXPECT_EQ(tokenizer.at("post_processor").at("special_tokens").at("<|sink|>").at("ids"), json::array({257}));
    const json config = json::parse(read_file(folder_ / "out/config.json", "test"));
    EXPECT_EQ(config.at("bos_token_id"), 257);
    EXPECT_EQ(config.at("eos_token_id"), 256);
    const TrainedModel again = load(import(folder_ / "out"));
    ASSERT_NE(again.tokenizer(), nullptr);
    EXPECT_EQ(again.tokenizer()->to_json(), model.tokenizer()->to_json());
}

TEST_F(HfTest, RefusesWhatNoClassComputes) {
    const auto refused = [&](std::initializer_list<std::string_view> parts,
                             const std::function<void(NetworkConfig&)>& change, NetworkConfig c = tiny_llama()) {
        change(c);
        const TrainedModel model = random_model(c);
        expect_error(ExitCode::kBadInput, parts,
                     [&] { export_safetensors(model, folder_ / "never", TensorType::kF32); });
        EXPECT_FALSE(fs::exists(folder_ / "never"));
    };
    using N = NetworkConfig;
    refused({"sigmoid attention", "--arch plimsoll"}, [](N& c) { c.attention.weighting = {"sigmoid"}; });
    refused({"sink logit"}, [](N& c) { c.attention.extra_column = {"learned"}; });
    refused({"KV bias", "--arch plimsoll"}, [](N& c) { c.attention.extra_column = {"key_value"}; });
    refused({"layer 0", "qk_source = \"embedding\""}, [](N& c) { c.attention.qk_source = {"embedding"}; });
    refused({"query_key = \"merged\""},
            [](N& c) { c.model.kv_heads = c.model.heads, c.attention.query_key = "merged"; });
    refused({"feature_map"}, [](N& c) { c.attention.feature_map = "mlp"; });
    refused({"differential"}, [](N& c) { c.model.heads = 4, c.model.kv_heads = 2, c.attention.differential = "v2"; });
    refused({"value_bias"}, [](N& c) { c.attention.value_bias = true; });
    refused({"key_bias"}, [](N& c) { c.attention.key_bias = "value"; });
    refused({"layer 0", "dilated"}, [](N& c) { c.attention.pattern = {"dilated"}; });
    refused({"attention.prefix = 3"}, [](N& c) { c.attention.prefix = 3; });
    refused({"window"}, [](N& c) { c.attention.window = {4}; });
    refused({"different gates"}, [](N& c) { c.attention.gate = {"headwise", "none"}; });
    refused({"biases"}, [](N& c) { c.model.bias = true; });
    refused({"layer 1 has a gate on values (attention.gate_value = \"elementwise\")"}, [](N& c) {
        c.attention.gate_value = {"none", "elementwise"};
    });
    refused({"a gate on keys"}, [](N& c) { c.attention.gate_key = {"headwise"}; });
    refused({"attention.gate_function = \"silu\""},
            [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_function = "silu"; });
    refused({"attention.gate_input = \"value\""},
            [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_input = "value"; });
    refused({"a temperature of queries"}, [](N& c) { c.attention.query_temperature = {"token"}; });
    refused({"attention.post_norm"}, [](N& c) { c.attention.post_norm = true; });
    refused({"attention.layer_scale"}, [](N& c) { c.attention.layer_scale = 1e-4; });
    refused({"\"alibi\""}, [](N& c) { c.model.position = "alibi"; });
    refused(
        {"GPT-2"}, [](N& c) { c.model.activation = "relu"; }, tiny_gpt2());
    const TrainedModel model = random_model(tiny_llama());
    expect_error(ExitCode::kBadInput, {"q8_0", "bf16"},
                 [&] { export_safetensors(model, folder_ / "never", TensorType::kQ8_0); });
}

TEST_F(HfTest, RefusesFoldersThatCannotBeUsed) {
    refuse(folder_ / "none", {"config.json", "cannot be opened"});
    refuse(changed("llama", "config.json", "\"silu\"", "\"relu\""), {"config.json", "'hidden_act' is 'relu'"});
    refuse(changed("llama", "config.json", "\"rope_type\": \"default\"", "\"rope_type\": \"yarn\""), {"'yarn'"});
    refuse(changed("llama", "config.json", "\"model_type\": \"llama\"", "\"model_type\": \"bert\""),
           {"'bert'", "gpt2"});
    refuse(changed("llama", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
           {"model.layers.2", "no tensor"});
    refuse(changed("llama", "config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1"),
           {"model.layers.1", "no parameter"});
    refuse(changed("llama", "config.json", "\"hidden_size\": 16", "\"hidden_size\": 1000000"),
           {"config.json describes"});
    refuse(changed("llama", "config.json", "\"intermediate_size\": 24", "\"intermediate_size\": 25"),
           {"mlp.gate_proj.weight' is (24, 16)", "wants (25, 16)"});
    refuse(changed("llama", "config.json", "\"num_attention_heads\": 4", "\"num_attention_heads\": 3"),
           {"config.json: model.heads"});
    refuse(changed("llama", "config.json", "\"hidden_size\": 16", "\"hidden_size\": \"16\""),
           {"'hidden_size' is no integer"});
    refuse(changed("llama", "config.json", "{", "[{"), {"not JSON"});
    refuse(changed("gpt2", "config.json", "\"gelu_new\"", "\"gelu\""), {"'activation_function' is 'gelu'"});
    refuse(changed("qwen2", "model.safetensors.index.json", "\"model-00001", "\"../model-00001"),
           {"../model-00001", "beside"});
    refuse(changed("qwen2", "model.safetensors.index.json", "\"lm_head.weight\"", "\"lm_tail.weight\""),
           {"'lm_tail.weight' is not in"});
    std::string cut = changed("qwen3", "config.json", "{", "{");
    fs::resize_file(cut + "/model.safetensors", 5000);
    refuse(cut, {"model.safetensors", "cut off"});
    fs::remove(cut + "/model.safetensors");
    refuse(cut, {"model.safetensors", "cannot be opened"});
}

}  // namespace
}  // namespace plimsoll
