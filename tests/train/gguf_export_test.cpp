#include "train/export/gguf_export.h"

#include <set>

#include "export_support.h"
#include "train/export/gguf_tensors.h"
#include "train/export/own_keys.h"
#include "train/export/vocabulary.h"

namespace plimsoll {
namespace {

NetworkConfig llama() {
    NetworkConfig c = tiny_llama();
    c.model.qk_norm = false;
    return c;
}

class GgufExportTest : public testing::Test {
  protected:
    TemporaryFolder folder_;
    std::string path_ = folder_ / "x.gguf";

    static std::string architecture(const std::function<void(NetworkConfig&)>& change, NetworkConfig c = llama()) {
        change(c);
        c.validate();
        return std::string(gguf_architecture(c).name);
    }
    static void refused(std::initializer_list<std::string_view> parts,
                        const std::function<void(NetworkConfig&)>& change, NetworkConfig c = llama()) {
        change(c);
        c.validate();
        expect_error(ExitCode::kBadInput, parts, [&] { gguf_architecture(c); });
        expect_error(ExitCode::kBadInput, {"--arch plimsoll"}, [&] { gguf_architecture(c); });
    }
};

TEST_F(GgufExportTest, ChoosesTheArchitecture) {
    using N = NetworkConfig;
    EXPECT_EQ(architecture([](N&) {}), "llama");
    EXPECT_EQ(architecture([](N& c) { c.model.bias = true; }), "llama");
    EXPECT_EQ(architecture([](N& c) { c.attention.placeholders = 1; }), "llama");
    EXPECT_EQ(architecture([](N& c) { c.model.qk_norm = true; }), "qwen3");
    EXPECT_EQ(architecture([](N& c) { c.attention.gate = {"headwise"}; }), "step35");
    EXPECT_EQ(architecture([](N& c) { c.attention.gate = {"headwise", "none"}, c.model.qk_norm = true; }), "step35");
    EXPECT_EQ(architecture([](N& c) { c.attention.window = {5, 0}; }), "step35");
    EXPECT_EQ(architecture([](N& c) { c.attention.gate = {"elementwise"}, c.model.qk_norm = true; }), "qwen35");
    EXPECT_EQ(architecture([](N& c) { c.attention.extra_column = {"learned"}; }), "mimo2");
    EXPECT_EQ(architecture([](N& c) { c.attention.extra_column = {"constant", "none"}; }), "mimo2");
    EXPECT_EQ(architecture([](N& c) { c.attention.extra_column = {"learned"}, c.attention.window = {4}; }), "mimo2");
    EXPECT_EQ(architecture([](N&) {}, tiny_gpt2()), "gpt2");
    EXPECT_EQ(architecture([](N& c) { c.attention.gate_function = "silu"; }), "llama");  // of no gate
    EXPECT_EQ(architecture([](N& c) { c.model.bias = false; }, tiny_gpt2()), "gpt2");
    EXPECT_EQ(architecture([](N& c) { c.attention.pinned = 2; }), "llama");  // pins nothing without a window
}

TEST_F(GgufExportTest, SaysWhyNoneFits) {
    using N = NetworkConfig;
    refused({"layer 0 has sigmoid attention", "no conversion exists"},
            [](N& c) { c.attention.weighting = {"sigmoid"}; });
    refused({"layer 1 has sigmoid"}, [](N& c) { c.attention.weighting = {"softmax", "sigmoid"}; });
    refused({"element-wise gate without QK-norm", "model.qk_norm = true"},
            [](N& c) { c.attention.gate = {"elementwise"}; });
    refused({"some layers only"}, [](N& c) { c.attention.gate = {"elementwise", "none"}, c.model.qk_norm = true; });
    refused({"element-wise gate with windows"},
            [](N& c) { c.attention.gate = {"elementwise"}, c.attention.window = {4}, c.model.qk_norm = true; });
    refused({"sink logits with QK-norm", "model.qk_norm = false"},
            [](N& c) { c.attention.extra_column = {"learned"}, c.model.qk_norm = true; });
    refused({"a gate and a sink logit"},
            [](N& c) { c.attention.extra_column = {"learned"}, c.attention.gate = {"headwise"}; });
    refused({"layer 1 has K bias"}, [](N& c) { c.attention.extra_column = {"none", "key"}; });
    refused({"layer 0 has KV bias"}, [](N& c) { c.attention.extra_column = {"key_value"}; });
    refused({"value_bias = true"}, [](N& c) { c.attention.value_bias = true; });
    refused({"key_bias = \"value\""}, [](N& c) { c.attention.key_bias = "value"; });
    refused({"layer 1", "attention.qk_source = \"position\""}, [](N& c) {
        c.attention.qk_source = {"input", "position"};
    });
    refused({"query_key = \"symmetric\""},
            [](N& c) { c.model.kv_heads = c.model.heads, c.attention.query_key = "symmetric"; });
    refused({"feature_map = \"elu1\""}, [](N& c) { c.attention.feature_map = "elu1"; });
    refused({"differential = \"v1\""},
            [](N& c) { c.model.heads = 4, c.model.kv_heads = 2, c.attention.differential = "v1"; });
    refused({"model.bias = true"}, [](N& c) { c.model.bias = true, c.model.qk_norm = true; });
    refused({"layer 1 has a gate on values (attention.gate_value = \"elementwise\")"}, [](N& c) {
        c.attention.gate_value = {"none", "elementwise"};
    });
    refused({"a gate on keys"}, [](N& c) { c.attention.gate_key = {"headwise"}; });
    refused({"a gate on queries"}, [](N& c) { c.attention.gate_query = {"shared"}; });
    refused({"a gate on the output projection"}, [](N& c) { c.attention.gate_projection = {"headwise"}; });
    refused({"a gate that is constant_headwise"}, [](N& c) { c.attention.gate = {"constant_headwise"}; });
    refused({"attention.gate_function = \"silu\""},
            [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_function = "silu"; });
    refused({"gate_combination = \"add\""},
            [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_combination = "add"; });
    refused({"attention.gate_input = \"value\""},
            [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_input = "value"; });
    refused({"attention.gate_bias"}, [](N& c) { c.attention.gate = {"headwise"}, c.attention.gate_bias = true; });
    refused({"a temperature of queries"}, [](N& c) { c.attention.query_temperature = {"token"}; });
    refused({"a temperature of values"}, [](N& c) { c.attention.value_temperature = {"position"}; });
    refused({"attention.post_norm"}, [](N& c) { c.attention.post_norm = true; });
    refused({"attention.layer_scale"}, [](N& c) { c.attention.layer_scale = 1e-4; });
    refused({"placeholders = 2"}, [](N& c) { c.attention.placeholders = 2; });
    refused({"windows of 2 sizes"}, [](N& c) { c.attention.window = {4, 5}; });
    refused({"layer 1", "blocked"}, [](N& c) {
        c.attention.pattern = {"causal", "blocked"}, c.attention.window = {4};
    });
    refused({"attention.prefix = 3"}, [](N& c) { c.attention.prefix = 3; });
    refused({"pinned = 1"}, [](N& c) { c.attention.window = {4}, c.attention.pinned = 1; });
    refused({"\"alibi\""}, [](N& c) { c.model.position = "alibi"; });
    refused({"\"none\""}, [](N& c) { c.model.position = "none"; });
    refused({"\"layer\" and activation = \"swiglu\""}, [](N& c) { c.model.norm = "layer"; });
    refused({"activation = \"relu\""}, [](N& c) { c.model.activation = "relu"; });
    refused(
        {"activation = \"relu\" with learned"}, [](N& c) { c.model.activation = "relu"; }, tiny_gpt2());
    refused(
        {"kv_heads = 1"}, [](N& c) { c.model.kv_heads = 1; }, tiny_gpt2());
    refused(
        {"heads of 8"}, [](N& c) { c.model.head_size = 8; }, tiny_gpt2());
    refused(
        {"GPT-2's architecture has no QK-norm"}, [](N& c) { c.model.qk_norm = true; }, tiny_gpt2());
    refused(
        {"has no gate"}, [](N& c) { c.attention.gate = {"headwise"}; }, tiny_gpt2());
}

// The rows of queries that llama rotates as pairs (2i, 2i + 1) are those that are rotated here as (i, i + HS / 2).
TEST_F(GgufExportTest, PairsWhatRopeRotates) {
    const NetworkConfig c = llama();
    const TrainedModel model = random_model(c);
    const int64_t HS = c.model.head_channels(), C = c.model.channels, NH = c.model.heads;
    const std::vector<MappedTensor> tensors = stock_tensors(gguf_architecture(c), c);
    const auto values = [&](const std::string& name) {
        for (const MappedTensor& t : tensors)
            if (t.name == name) return gather(model, t);
        ADD_FAILURE() << name;
        return std::vector<float>{};
    };
    const float* const qkv = model.parameter("blocks.1.attn.qkv.weight").ptr<float>();
    const std::vector<float> q = values("blk.1.attn_q.weight"), k = values("blk.1.attn_k.weight"),
                             v = values("blk.1.attn_v.weight");
    for (int64_t h = 0; h < NH; ++h)
        for (int64_t i = 0; i < HS / 2; ++i)
            for (int64_t half = 0; half < 2; ++half)
                for (int64_t column = 0; column < C; ++column) {
                    const auto to = static_cast<size_t>((h * HS + 2 * i + half) * C + column);
                    const int64_t row = h * HS + i + half * HS / 2;
                    ASSERT_EQ(q[to], qkv[row * C + column]);
                    if (h == 0) {
                        ASSERT_EQ(k[to], qkv[(NH * HS + row) * C + column]);
                    }
                }
    for (size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], qkv[static_cast<size_t>((NH + 1) * HS * C) + i]);
}

// Every parameter goes into the file, and once (tied tables aside): nothing that was trained is forgotten.
TEST_F(GgufExportTest, EveryParameterIsInTheFileOnce) {
    const auto changes = {+[](NetworkConfig&) {},
                          +[](NetworkConfig& c) { c.model.qk_norm = true; },
                          +[](NetworkConfig& c) { c.attention.gate = {"headwise"}; },
                          +[](NetworkConfig& c) { c.attention.gate = {"elementwise"}, c.model.qk_norm = true; },
                          +[](NetworkConfig& c) { c.attention.extra_column = {"learned"}; },
                          +[](NetworkConfig& c) { c = tiny_gpt2(); },
                          +[](NetworkConfig& c) { c.model.bias = true; }};
    for (const auto change : changes) {
        NetworkConfig c = llama();
        change(c);
        std::multiset<float> stored, trained;
        const TrainedModel model = random_model(c);
        for (const MappedTensor& t : stock_tensors(gguf_architecture(c), c))
            if (!t.rows.front().parameter.empty())
                for (const float value : gather(model, t)) stored.insert(value);
        for (const Parameter& p : model.table().entries())
            for (const float value : model.parameter(p.name).span<float>()) trained.insert(value);
        EXPECT_EQ(stored, trained) << gguf_architecture(c).name;
    }
}

TEST_F(GgufExportTest, OwnFilesComeBackToTheBit) {
    NetworkConfig c = tiny_llama();
    c.attention.weighting = {"sigmoid", "softmax"}, c.attention.gate = {"elementwise", "headwise"};
    c.attention.extra_column = {"none", "learned"}, c.attention.window = {0, 7}, c.attention.pinned = 1;
    c.attention.placeholders = 2, c.attention.score_bias = "constant", c.attention.score_bias_value = 0.1;
    c.model.rope_theta = 123.456, c.loss.z_loss = 1e-4;
    NetworkConfig parts = tiny_gpt2();
    parts.attention.gate = {"constant_headwise", "shared"}, parts.attention.gate_value = {"elementwise", "none"};
    parts.attention.gate_key = {"headwise"}, parts.attention.gate_query = {"none", "constant_elementwise"};
    parts.attention.gate_projection = {"headwise"}, parts.attention.gate_function = "half_sigmoid";
    parts.attention.gate_combination = "add", parts.attention.gate_bias = true, parts.attention.gate_start = 2.5;
    parts.attention.query_temperature = {"both", "token"}, parts.attention.value_temperature = {"position"};
    parts.attention.post_norm = true, parts.attention.layer_scale = 1e-4;
    for (const NetworkConfig& network : {c, tiny_gpt2(), parts}) {
        TrainedModel model = random_model(network);
        const GgufExportReport report = export_gguf(model, path_, {.own = true});
        EXPECT_EQ(report.architecture, "plimsoll");
        TrainedModel again = load_trained_model(path_, [](const std::string&) {});
        EXPECT_EQ(bytes_of_tensor(again.parameters()), bytes_of_tensor(model.parameters()));
        EXPECT_EQ(some_logits(again), some_logits(model));
        EXPECT_EQ(resolved_toml(again.config()), resolved_toml(model.config()));
        EXPECT_EQ(again.network().vocab, model.network().vocab);
        EXPECT_EQ(again.origin().step, 12);
        EXPECT_EQ(again.origin().tokens, 345);
    }
    // Rounded types are what they were rounded to.
    const TrainedModel model = random_model(c);
    export_gguf(model, path_, {.type = TensorType::kBF16, .own = true});
    const TrainedModel narrow = load_gguf_model(path_);
    const std::span<float> from = model.parameter("blocks.0.attn.qkv.weight").span<float>(),
                           to = narrow.parameter("blocks.0.attn.qkv.weight").span<float>();
    for (size_t i = 0; i < from.size(); ++i) ASSERT_EQ(to[i], static_cast<float>(bf16(from[i])));
    EXPECT_EQ(bytes_of_tensor(narrow.parameter("blocks.1.attn.sink_logit")),
              bytes_of_tensor(model.parameter("blocks.1.attn.sink_logit")));
    // Rows that are no blocks of 32 are f16.
    export_gguf(model, path_, {.type = TensorType::kQ8_0, .own = true});
    EXPECT_EQ(GgufFile(path_).find("wte.weight")->type, 1u);
    // fp64 is rounded.
    const TrainedModel wide = random_model(c, DType::kF64);
    export_gguf(wide, path_, {.own = true});
    EXPECT_EQ(bytes_of_tensor(load_gguf_model(path_).parameters()), bytes_of_tensor(model.parameters()));
}

TEST_F(GgufExportTest, HostileKeysAreRefused) {
    const NetworkConfig c = llama();
    const TrainedModel model = random_model(c);
    export_gguf(model, path_, {.own = true});
    const std::string whole = read_file(path_, "test");
    const auto refuse = [&](const std::string& bytes, std::initializer_list<std::string_view> parts) {
        const std::string hostile = write_bytes(folder_ / "hostile.gguf", bytes);
        expect_error(ExitCode::kBadInput, parts, [&] { load_gguf_model(hostile); });
    };
    const auto integer = [&](const std::string& key, int64_t from, int64_t to) {
        return with(whole, key + raw(uint32_t{11}) + raw(from), key + raw(uint32_t{11}) + raw(to));
    };
    refuse(integer("plimsoll.model.layers", 2, 1000), {"1000 layers"});
    refuse(integer("plimsoll.model.layers", 2, 1), {"describe", "parameters", "hold"});
    refuse(integer("plimsoll.model.layers", 2, -1), {"hostile.gguf", "model.layers"});
    refuse(integer("plimsoll.model.channels", 18, 1 << 20), {"describe"});
    refuse(integer("plimsoll.model.ffn", 14, 1 << 20), {"describe"});
    refuse(with(whole, "plimsoll.model.heads", "plimsoll.model.headz"), {"plimsoll.model.headz", "not known"});
    refuse(with(whole, "plimsoll.vocab_size", "plimsoll.vocab_sise"), {"no key 'plimsoll.vocab_size'"});
    refuse(with(whole, "plimsoll.vocab_size" + raw(uint32_t{10}) + raw(uint64_t{13}),
                "plimsoll.vocab_size" + raw(uint32_t{10}) + raw(~uint64_t{0})),
           {"vocab_size"});
    refuse(with(whole, "swiglu", "swiglo"), {"plimsoll.model.activation", "'swiglo'"});
    refuse(with(whole, "blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.height"),
           {"no tensor 'blocks.1.attn.qkv.weight'"});
    export_gguf(model, path_, {});
    expect_error(ExitCode::kBadInput, {"architecture 'llama'", "'plimsoll'", "--arch plimsoll"},
                 [&] { load_trained_model(path_, [](const std::string&) {}); });
}

TEST_F(GgufExportTest, EveryIdHasANameOfItsOwn) {
    NetworkConfig c = llama();
    c.vocab = 260, c.attention.placeholders = 1;
    TrainedModel model = random_model(c);
    model.set_tokenizer(make_byte_tokenizer(true));
    const VocabularyRows rows = vocabulary_rows(model);
    ASSERT_EQ(rows.tokens.size(), 261u);
    EXPECT_EQ(std::set<std::string>(rows.tokens.begin(), rows.tokens.end()).size(), 261u);
    EXPECT_EQ(rows.tokens[65], "A");
    EXPECT_EQ(rows.tokens[256], "<|endoftext|>");
    EXPECT_EQ(rows.types[256], static_cast<int32_t>(TokenType::kControl));
    EXPECT_EQ(rows.types[257], static_cast<int32_t>(TokenType::kUnused));
    EXPECT_EQ(rows.tokens[260], "<|sink|>");
    EXPECT_EQ(rows.bos, 260);
    EXPECT_EQ(rows.eos, 256);
    EXPECT_TRUE(rows.add_bos);
    export_gguf(model, path_, {});
    const GgufFile file(path_);
    EXPECT_EQ(file.get<GgufArray>("tokenizer.ggml.suppress_tokens"),
              GgufArray(std::vector<int32_t>{257, 258, 259, 260}));
    EXPECT_EQ(file.get<GgufArray>("tokenizer.ggml.merges"), GgufArray(std::vector<std::string>{}));
    EXPECT_EQ(file.get<bool>("tokenizer.ggml.add_bos_token"), true);
    // Read back, the tokenizer is the same.
    export_gguf(model, path_, {.own = true});
    const TrainedModel again = load_gguf_model(path_);
    ASSERT_NE(again.tokenizer(), nullptr);
    EXPECT_EQ(again.tokenizer()->to_json(), model.tokenizer()->to_json());
    EXPECT_EQ(again.label(65), "A");
    // Without an end of text llama.cpp is given some id, and the report says which.
    c.vocab = 256, c.attention.placeholders = 0;
    TrainedModel endless = random_model(c);
    endless.set_tokenizer(make_byte_tokenizer(false));
    const GgufExportReport report = export_gguf(endless, path_, {});
    ASSERT_EQ(report.notes.size(), 1u);
    EXPECT_NE(report.notes[0].find("--ignore-eos"), std::string::npos) << report.notes[0];
}

TEST_F(GgufExportTest, InspectListsAFile) {
    export_gguf(random_model(llama()), path_, {});
    std::string text;
    inspect_gguf(path_, [&](const std::string& line) { text += line; });
    for (const char* part : {"general.architecture = \"llama\"\n", "llama.rope.freq_base = 10000\n", "no_vocab",
                             "blk.1.attn_q.weight (18, 18) f32, 1296 bytes\n", "21 tensors"})
        EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
}

}  // namespace
}  // namespace plimsoll
