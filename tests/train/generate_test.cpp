#include "train/generate.h"

#include <algorithm>
#include <cmath>

#include "data/data_test_support.h"
#include "support/named_networks.h"

namespace plimsoll {
namespace {

class GenerateTest : public testing::Test {
  protected:
    NetworkConfig network_ = tiny_llama();
    std::vector<int32_t> prompt_{3, 1, 4};

    void build(const NetworkConfig& network) {
        network_ = network;
        run_.emplace(network_, 64, DType::kF32);
    }
    NetworkWeights weights() { return {run_->model.table(), run_->model.parameters(), {}, run_->model.precision()}; }
    Generated run(const DecoderOptions& options, const GenerateOptions& generate_options, int32_t eot = -1) {
        Decoder decoder(network_, weights(), options, run_->exec);
        return generate(decoder, prompt_, network_.vocab, eot, generate_options, [](int32_t) { return true; });
    }
    std::optional<TinyModel> run_;
};

// By the whole forward of the sequence so far, for every token.
TEST_F(GenerateTest, IsWhatComputingEverythingAgainGives) {
    for (const Named& named : networks()) {
        NetworkConfig c = named.config;
        c.model.context = 60;
        build(c);
        std::vector<int32_t> ids = prompt_;
        for (int i = 0; i < 50; ++i) {
            TinyBatch batch(network_, 1);
            batch.tokens = ids, batch.targets.assign(ids.size(), 0);
            batch.positions.resize(ids.size());
            std::iota(batch.positions.begin(), batch.positions.end(), 0);
            batch.cu_seqlens = {0, static_cast<int32_t>(ids.size())};
            run_->loss(batch);
            const Tensor logits = run_->model.logits(batch.n(), run_->exec);
            const float* last = logits.ptr<float>() + (batch.n() - 1) * logits.shape[1];
            ids.push_back(static_cast<int32_t>(std::max_element(last, last + network_.vocab) - last));
        }
        const Generated g = run({.cache = {.tokens = 60}}, {.max_tokens = 50, .sampling = {.temperature = 0}});
        ids.erase(ids.begin(), ids.begin() + 3);
        EXPECT_EQ(g.ids, ids) << named.name;
    }
}

TEST_F(GenerateTest, EqualSeedsGiveEqualTokensWhateverTheChunksAndThreads) {
    build(tiny_llama());
    const GenerateOptions options{.max_tokens = 40, .seed = 7};
    const Generated a = run({.cache = {.tokens = 64}, .chunk = 64}, options);
    run_->exec.threads = 1;
    EXPECT_EQ(run({.cache = {.tokens = 64}, .chunk = 1}, options).ids, a.ids);
    EXPECT_NE(run({.cache = {.tokens = 64}}, {.max_tokens = 40, .seed = 8}).ids, a.ids);
    // Token n is drawn by number n, however many are asked for.
    const Generated some = run({.cache = {.tokens = 64}}, {.max_tokens = 11, .seed = 7});
    EXPECT_TRUE(std::equal(some.ids.begin(), some.ids.end(), a.ids.begin()));
}

// Without parameters every id is as likely as any.
TEST_F(GenerateTest, DrawsTokenNByNumberNOfItsStream) {
    build(tiny_llama());
    std::ranges::fill(run_->model.parameters().span<float>(), 0.0f);
    const Generated g = run({.cache = {.tokens = 64}}, {.max_tokens = 40, .seed = 5});
    const RandomStream stream(5, "generate");
    ASSERT_EQ(g.ids.size(), 40u);
    for (size_t n = 0; n < g.ids.size(); ++n)
        EXPECT_EQ(g.ids[n], static_cast<int32_t>(stream.uniform(n) * static_cast<double>(network_.vocab))) << n;
}

TEST_F(GenerateTest, SaysWhyItStopped) {
    build(tiny_llama());
    const Generated all = run({.cache = {.tokens = 64}}, {.max_tokens = 9});
    EXPECT_EQ(all.reason, StopReason::kMaxTokens);
    EXPECT_EQ(all.ids.size(), 9u);
    const Generated full = run({.cache = {.tokens = 8}}, {.max_tokens = 9});
    EXPECT_EQ(full.reason, StopReason::kCacheFull);
    EXPECT_EQ(full.ids, std::vector(all.ids.begin(), all.ids.begin() + 6));  // the last one is drawn, not appended
    const auto end = std::find(all.ids.begin(), all.ids.end(), all.ids[5]);
    const Generated ended = run({.cache = {.tokens = 64}}, {.max_tokens = 9}, all.ids[5]);
    EXPECT_EQ(ended.reason, StopReason::kEndOfText);
    EXPECT_EQ(ended.ids, std::vector(all.ids.begin(), end));
    EXPECT_TRUE(run({.cache = {.tokens = 64}}, {.max_tokens = 0}).ids.empty());
    Decoder decoder(network_, weights(), {.cache = {.tokens = 64}}, run_->exec);
    int seen = 0;
    const Generated asked =
        generate(decoder, prompt_, network_.vocab, -1, {.max_tokens = 9}, [&](int32_t) { return ++seen < 4; });
    EXPECT_EQ(asked.reason, StopReason::kAsked);
    EXPECT_EQ(asked.ids.size(), 4u);
}

// Placeholders have the highest logits here, and are never drawn.
TEST_F(GenerateTest, NeverDrawsAPlaceholder) {
    NetworkConfig c = tiny_llama();
    c.attention.placeholders = 2, c.model.tied = false;
    build(c);
    const ParameterTable& table = run_->model.table();
    const Tensor head = table.view(run_->model.parameters(), table.find("lm_head.weight"));
    for (int64_t i = c.vocab * c.model.channels; i < head.elements(); ++i) head.ptr<float>()[i] *= 100;
    for (const double temperature : {0.0, 1.0})
        for (const int32_t id :
             run({.cache = {.tokens = 64}}, {.max_tokens = 60, .sampling = {.temperature = temperature}}).ids)
            EXPECT_LT(id, c.vocab);
}

// 30 contexts long: the logits stay finite, or the sampler would throw.
TEST_F(GenerateTest, StreamsFarBeyondTheContext) {
    for (const Named& named : networks()) {
        if (!can_stream(named.config)) continue;
        build(named.config);
        const DecoderOptions options =
            streaming_options(network_, streaming_cache(network_, network_.model.context, -1), 3);
        EXPECT_EQ(run(options, {.max_tokens = 30 * network_.model.context}).ids.size(),
                  static_cast<size_t>(30 * network_.model.context))
            << named.name;
    }
}

TEST(PromptIds, BeginAsDocumentsDo) {
    NetworkConfig network = tiny_llama();
    const auto with_eot = make_byte_tokenizer(true), without = make_byte_tokenizer(false);
    network.vocab = 257;
    EXPECT_EQ(prompt_ids(network, *with_eot, "ab"), (std::vector<int32_t>{256, 97, 98}));
    EXPECT_EQ(prompt_ids(network, *with_eot, ""), (std::vector<int32_t>{256}));
    EXPECT_EQ(prompt_ids(network, *without, "ab"), (std::vector<int32_t>{97, 98}));
    network.attention.placeholders = 2;
    EXPECT_EQ(prompt_ids(network, *with_eot, "a"), (std::vector<int32_t>{257, 258, 256, 97}));
    expect_error(ExitCode::kBadInput, {"prompt is empty", "--prompt"}, [&] { prompt_ids(network, *without, ""); });
    expect_error(ExitCode::kBadInput, {"byte 2"},
                 [&] { prompt_ids(network, *make_char_tokenizer("abc", false), "abz"); });
}

TEST(StreamingCacheOptions, AreCheckedAgainstTheContext) {
    NetworkConfig network = tiny_llama();  // a context of 11
    EXPECT_EQ(streaming_cache(network, 11, -1).start, 4);
    EXPECT_EQ(streaming_cache(network, 11, -1).recent, 7);
    EXPECT_EQ(streaming_cache(network, 3, -1).start, 2);
    EXPECT_EQ(streaming_cache(network, 1, -1).start, 0);
    EXPECT_EQ(streaming_cache(network, 9, 0).recent, 9);
    network.attention.placeholders = 2;
    EXPECT_EQ(streaming_cache(network, 11, -1).start, 2);
    expect_error(ExitCode::kBadInput, {"--streaming is 12", "1 .. 11"}, [&] { streaming_cache(network, 12, 0); });
    expect_error(ExitCode::kBadInput, {"--streaming is -3"}, [&] { streaming_cache(network, -3, -1); });
    expect_error(ExitCode::kBadInput, {"--sinks is 5", "below --streaming = 5"},
                 [&] { streaming_cache(network, 5, 5); });
}

TEST(ForTerminal, ShowsNoByteThatATerminalObeys) {
    EXPECT_EQ(for_terminal("a\tb\nc é 漢 😀"), "a\tb\nc é 漢 😀");
    EXPECT_EQ(for_terminal("\x1b[2J\r\x7f"), "\uFFFD[2J\uFFFD\uFFFD");
    EXPECT_EQ(for_terminal(std::string_view("\0x", 2)), "\uFFFDx");
    EXPECT_EQ(for_terminal("\xc2\x9b"
                           "m"),
              "\uFFFDm");  // CSI as one character
    EXPECT_EQ(for_terminal("\xff\xc3"), "\uFFFD\uFFFD");
}

}  // namespace
}  // namespace plimsoll
