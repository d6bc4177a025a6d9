// Generation on a cache against the whole sequence's forward, and streams against their definition.
#include "model/decoder.h"

#include <algorithm>
#include <cmath>

#include "kernels/rope.h"
#include "support/attention_oracle.h"
#include "support/named_networks.h"

namespace plimsoll {
namespace {

struct DecoderCase {
    std::string name;
    std::vector<NetworkConfig> networks;
};
void PrintTo(const DecoderCase& c, std::ostream* out) {
    *out << c.name;
}

// Every weighting with its extra columns and biases, under every mask, with every kind of position, and all networks of
// the other tests: gates, placeholders, hybrids, GQA, QK-norm, LayerNorm, no feed-forward layer.
std::vector<DecoderCase> cases() {
    std::vector<DecoderCase> all;
    for (const Named& n : networks()) all.push_back({n.name, {n.config}});
    struct Kind {
        std::string extra, bias;
    };
    for (const VariantInfo& variant : variants()) {
        std::vector<Kind> kinds{{"none", "log_n"}};
        if (variant.normalization == Normalization::kExp)
            for (const char* column : {"constant", "learned"}) kinds.push_back({column, "none"});
        if (variant.bias != BiasRole::kNone)
            for (const char* bias : {"none", "constant", "per_row", "learned"}) kinds.push_back({"none", bias});
        if (variant.name == "softmax") kinds.push_back({"key_value", "none"});
        for (const Kind& kind : kinds) {
            DecoderCase one{fmt::format("{}_{}_{}", variant.name, kind.extra, kind.bias), {}};
            for (const auto& [window, pinned] : {std::pair{0, 0}, {1, 0}, {4, 0}, {6, 2}})
                for (const char* position : {"rope", "learned", "alibi", "none"}) {
                    NetworkConfig c = tiny_llama();
                    c.attention.weighting = {std::string(variant.name)}, c.attention.score_bias = kind.bias;
                    c.attention.extra_column = {kind.extra}, c.attention.extra_logit = 0.4;
                    c.attention.score_bias_value = -1.3;
                    c.attention.window = {window}, c.attention.pinned = pinned, c.model.position = position;
                    c.attention.gate = {window == 4 ? "headwise" : "none"};
                    c.model.qk_norm = pinned == 0;
                    one.networks.push_back(c);
                }
            all.push_back(one);
        }
    }
    for (DecoderCase& c : all)
        for (NetworkConfig& network : c.networks) network.model.context = 40;
    return all;
}

// A network whose biases, gains and sink logits are not where they start.
struct Trained : TinyModel {
    Trained(const NetworkConfig& network, int64_t tokens, DType dtype) : TinyModel(network, tokens, dtype) {
        dispatch_float(model.parameters().dtype, [&]<class R>() {
            const std::span<R> values = model.parameters().span<R>();
            for (size_t i = 0; i < values.size(); ++i)
                values[i] = static_cast<R>(static_cast<Accumulator<R>>(values[i]) +
                                           static_cast<Accumulator<R>>(0.05 * std::sin(static_cast<double>(i))));
        });
        model.refresh_working(exec);
    }
    NetworkWeights weights() const { return {model.table(), model.parameters(), model.working(), model.precision()}; }
};

std::vector<double> row_of(Tensor logits, int64_t row) {
    std::vector<double> values;
    dispatch_float(logits.dtype, [&]<class R>() {
        const R* from = logits.ptr<R>() + row * logits.row_stride;
        for (int64_t v = 0; v < logits.shape[1]; ++v)
            values.push_back(static_cast<double>(static_cast<Accumulator<R>>(from[v])));
    });
    return values;
}

using Rows = std::vector<std::vector<double>>;
std::vector<double> of_last(Decoder& decoder) {
    return row_of(decoder.logits(), 0);
}

// Logits of every token by one forward of all of them through `core`.
Rows at_once(Trained& run, const TinyBatch& batch, CoreAttention& core) {
    run.model.forward(core, batch.input(), Write::kOverwrite, run.exec);
    const Tensor logits = run.model.logits(batch.n(), run.exec);
    Rows rows;
    for (int64_t i = 0; i < batch.n(); ++i) rows.push_back(row_of(logits, i));
    return rows;
}

void expect_equal(const std::vector<double>& seen, const std::vector<double>& wanted, double tolerance, size_t token) {
    ASSERT_EQ(seen.size(), wanted.size());
    for (size_t v = 0; v < seen.size(); ++v)
        ASSERT_NEAR(seen[v], wanted[v], tolerance * (1 + std::abs(wanted[v]))) << "token " << token << " id " << v;
    const auto best = [](const std::vector<double>& row) {
        return std::max_element(row.begin(), row.end()) - row.begin();
    };
    ASSERT_EQ(best(seen), best(wanted)) << "token " << token;
}

class DecoderTest : public testing::TestWithParam<DecoderCase> {
  protected:
    static void for_each(void (*f)(const NetworkConfig&, const TinyBatch&)) {
        for (const NetworkConfig& network : GetParam().networks) {
            SCOPED_TRACE(fmt::format("window {} pinned {} position {}", network.attention.window[0],
                                     network.attention.pinned, network.model.position));
            f(network, batch_of(network, 1, false));
            if (HasFatalFailure()) return;
        }
    }
    // By prompts of all lengths, in chunks and at once, and single tokens after them.
    template <DType dtype>
    static void expect_whole_forward(const NetworkConfig& network, const TinyBatch& batch) {
        // fp64: two dozen operations of a few dozen terms of order one to ten.
        constexpr double tolerance = dtype == DType::kF64 ? 1e-12 : 1e-5;
        Trained run(network, batch.n(), dtype);
        const Rows wanted = at_once(run, batch, run.core);
        const std::span<const int32_t> tokens = batch.tokens;
        for (const auto& [prompt, chunk] : {std::pair<size_t, int64_t>{1, 1}, {7, 3}, {23, 64}}) {
            Decoder decoder(network, run.weights(), {.cache = {.tokens = batch.n()}, .chunk = chunk}, run.exec);
            decoder.append(tokens.first(prompt));
            expect_equal(of_last(decoder), wanted[prompt - 1], tolerance, prompt - 1);
            for (size_t i = prompt; i < tokens.size(); ++i) {
                decoder.append(tokens.subspan(i, 1));
                expect_equal(of_last(decoder), wanted[i], tolerance, i);
            }
            EXPECT_EQ(decoder.room(), 0);
            decoder.truncate(5);
            decoder.append(tokens.subspan(5, 6));
            expect_equal(of_last(decoder), wanted[10], tolerance, 10);
        }
    }
};

TEST_P(DecoderTest, IsTheWholeForwardInFp64) {
    for_each(expect_whole_forward<DType::kF64>);
}
TEST_P(DecoderTest, IsTheWholeForwardInFp32) {
    for_each(expect_whole_forward<DType::kF32>);
}

TEST_P(DecoderTest, ScoresAsTheWholeForward) {
    for_each([](const NetworkConfig& network, const TinyBatch& batch) {
        Trained run(network, batch.n(), DType::kF64);
        run.loss(batch);
        const std::span<const double> wanted = run.model.nll(batch.n()).span<double>();
        Decoder decoder(network, run.weights(), {.cache = {.tokens = batch.n()}, .chunk = 7}, run.exec);
        std::vector<double> nll(batch.tokens.size());
        decoder.score(batch.tokens, batch.targets, nll);
        for (size_t i = 0; i < nll.size(); ++i) EXPECT_NEAR(nll[i], wanted[i], 1e-12 * (1 + wanted[i])) << i;
    });
}

TEST_P(DecoderTest, BitsDoNotDependOnThreads) {
    for_each([](const NetworkConfig& network, const TinyBatch& batch) {
        Trained run(network, batch.n(), DType::kF32);
        std::vector<std::vector<double>> logits;
        for (const int threads : {1, 3}) {
            Decoder decoder(network, run.weights(), {.cache = {.tokens = 40}}, {.threads = threads});
            decoder.append(std::span(batch.tokens).first(20));
            for (size_t i = 20; i < 24; ++i) decoder.append(std::span(batch.tokens).subspan(i, 1));
            logits.push_back(of_last(decoder));
        }
        EXPECT_EQ(logits[0], logits[1]);
    });
}

// Core attention of a stream by its definition, for all tokens at once: which tokens a query sees, and where.
class StreamOracle final : public CoreAttention {
  public:
    StreamOracle(const NetworkConfig& network, StreamingCache cache) : network_(network), cache_(cache) {}

    void compute_backward(const AttentionCall&, const Exec&) override {}
    void compute_forward(const AttentionCall& call, const Exec&) override {
        const AttentionTensors& t = call.t;
        const int64_t NH = t.q.shape[1], HS = t.q.shape[2], VS = t.v.shape[2], group = NH / t.k.shape[1];
        for (int64_t i = 0; i < t.q.rows(); ++i) {
            std::vector<int64_t> kept;  // in the cache when token i is appended
            for (int64_t j = 0; j <= i; ++j)
                if (j < cache_.start || j >= i - cache_.recent) kept.push_back(j);
            const auto last = static_cast<int64_t>(kept.size()) - 1;
            for (int64_t h = 0; h < NH; ++h) {
                const std::vector<double> q = rotated(t.q, i, h, HS, last);
                std::vector<double> scores, out(static_cast<size_t>(VS));
                std::vector<int64_t> seen;
                for (int64_t slot = 0; slot <= last; ++slot) {
                    if (call.spec.window > 0 && last - slot >= call.spec.window && slot >= call.spec.pinned) continue;
                    const int64_t j = kept[static_cast<size_t>(slot)];
                    const std::vector<double> k = rotated(t.k, j, h / group, HS, slot);
                    double s = 0;
                    for (size_t c = 0; c < q.size(); ++c) s += q[c] * k[c];
                    s *= call.spec.scale;
                    if (t.key_bias) s += t.key_bias.ptr<double>()[j * NH + h];
                    if (call.spec.alibi)
                        s -= std::pow(2.0, -8.0 * static_cast<double>(h + 1) / static_cast<double>(NH)) *
                             static_cast<double>(last - slot);
                    scores.push_back(s), seen.push_back(j);
                }
                double lse = 0;
                const Tensor learned = t.sink_logit ? t.sink_logit : t.score_bias;
                const std::vector<double> p =
                    oracle_row(as_case(call.spec), scores, learned ? learned.ptr<double>()[h] : 0, lse);
                for (size_t n = 0; n < p.size(); ++n)
                    for (int64_t c = 0; c < VS; ++c)
                        out[static_cast<size_t>(c)] +=
                            p[n] * t.v.ptr<double>()[seen[n] * t.v.row_stride + h / group * VS + c];
                const double gate = t.gate ? 1 / (1 + std::exp(-t.gate.ptr<double>()[i * NH + h])) : 1;
                for (int64_t c = 0; c < VS; ++c)
                    t.out.ptr<double>()[i * t.out.row_stride + h * VS + c] = out[static_cast<size_t>(c)] * gate;
                // What parts behind core attention read.
                if (t.lse) t.lse.ptr<double>()[h * t.q.rows() + i] = lse;
                std::copy(q.begin(), q.end(), t.q.ptr<double>() + i * t.q.row_stride + h * HS);
            }
        }
    }

  private:
    std::vector<double> rotated(Tensor t, int64_t row, int64_t head, int64_t HS, int64_t position) const {
        const double* from = t.ptr<double>() + row * t.row_stride + head * HS;
        std::vector<double> x(from, from + HS);
        if (network_.model.position != "rope") return x;
        for (size_t c = 0; c < x.size() / 2; ++c) {
            const double angle =
                static_cast<double>(position) *
                std::pow(network_.model.rope_theta, -2.0 * static_cast<double>(c) / static_cast<double>(HS));
            const double a = x[c], b = x[c + x.size() / 2];
            x[c] = a * std::cos(angle) - b * std::sin(angle);
            x[c + x.size() / 2] = a * std::sin(angle) + b * std::cos(angle);
        }
        return x;
    }
    static AttentionCase as_case(const AttentionSpec& spec) {
        return {.weighting = std::string(variants()[static_cast<size_t>(spec.weighting)].name),
                .extra = spec.extra_column,
                .extra_logit = spec.extra_logit,
                .bias = spec.bias_kind,
                .bias_value = spec.score_bias};
    }
    const NetworkConfig& network_;
    StreamingCache cache_;
};

DecoderOptions stream_of(const NetworkConfig& network, StreamingCache cache, int64_t chunk) {
    DecoderOptions options{.cache = {.streaming = cache}, .chunk = chunk};
    if (network.model.position == "rope")
        options.cache.frequencies = rope_frequencies(network.model.rope_theta, network.model.head_channels());
    return options;
}

TEST_P(DecoderTest, StreamsByTheDefinition) {
    for_each([](const NetworkConfig& network, const TinyBatch& batch) {
        Trained run(network, batch.n(), DType::kF64);
        for (const StreamingCache cache : {StreamingCache{0, 6}, {1, 5}, {4, 9}, {0, 1}, {50, 3}}) {
            if (!can_stream(network)) {
                EXPECT_THROW(Decoder(network, run.weights(), stream_of(network, cache, 1), run.exec), Error);
                continue;
            }
            StreamOracle oracle(network, cache);
            TinyBatch unrotated = batch;
            std::fill(unrotated.positions.begin(), unrotated.positions.end(), 0);
            const Rows wanted = at_once(run, unrotated, oracle);
            for (const int64_t chunk : {1, 8}) {
                SCOPED_TRACE(fmt::format("{} + {}, {} at once", cache.start, cache.recent, chunk));
                Decoder decoder(network, run.weights(), stream_of(network, cache, chunk), run.exec);
                for (size_t i = 0; i < batch.tokens.size();) {
                    const size_t n = std::min<size_t>(static_cast<size_t>(chunk), batch.tokens.size() - i);
                    decoder.append(std::span(batch.tokens).subspan(i, n));
                    i += n;
                    expect_equal(of_last(decoder), wanted[i - 1], 1e-12, i - 1);
                }
            }
        }
    });
}

INSTANTIATE_TEST_SUITE_P(Networks, DecoderTest, testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

NetworkConfig masked(const std::string& pattern, int64_t window, int64_t pinned, int64_t prefix) {
    NetworkConfig network = tiny_llama();
    network.model.context = 40, network.attention.pattern = {pattern, "causal"}, network.attention.window = {window};
    network.attention.dilation = 3, network.attention.pinned = pinned, network.attention.prefix = prefix;
    network.attention.weighting = {"softmax", "sigmoid"}, network.attention.score_bias = "per_row";
    return network;
}

// Keys stay where they are, so a cache computes every pattern; a prefix comes as a whole, whatever the chunk.
TEST(Decoder, ForwardsPatternsAndPrefixes) {
    for (const NetworkConfig& network :
         {masked("dilated", 4, 1, 0), masked("dilated", 0, 0, 5), masked("strided", 5, 0, 0),
          masked("blocked", 6, 2, 9), masked("causal", 3, 0, 6)}) {
        Trained run(network, 40, DType::kF64);
        const TinyBatch batch(network, 1);
        const Rows wanted = at_once(run, batch, run.core);
        const std::span<const int32_t> tokens = batch.tokens;
        for (const auto& [prompt, chunk] : {std::pair<size_t, int64_t>{9, 2}, {23, 64}}) {
            SCOPED_TRACE(
                fmt::format("{} prefix {}, prompt {}", network.attention.pattern[0], network.attention.prefix, prompt));
            Decoder decoder(network, run.weights(), {.cache = {.tokens = 40}, .chunk = chunk}, run.exec);
            decoder.append(tokens.first(prompt));
            expect_equal(of_last(decoder), wanted[prompt - 1], 1e-12, prompt - 1);
            for (size_t i = prompt; i < tokens.size(); ++i) {
                decoder.append(tokens.subspan(i, 1));
                expect_equal(of_last(decoder), wanted[i], 1e-12, i);
            }
            decoder.truncate(12);
            decoder.append(tokens.subspan(12, 3));
            expect_equal(of_last(decoder), wanted[14], 1e-12, 14);
        }
    }
}

std::string refusal(auto&& f) {
    try {
        f();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ExitCode::kBadInput);
        return error.what();
    }
    return "";
}

TEST(Decoder, RefusesPartsOfAPrefixAndStreamsOfOtherMasks) {
    const NetworkConfig network = masked("causal", 0, 0, 6);
    Trained run(network, 40, DType::kF64);
    const TinyBatch batch(network, 1);
    const std::span<const int32_t> tokens = batch.tokens;
    Decoder decoder(network, run.weights(), {.cache = {.tokens = 40}, .chunk = 1}, run.exec);
    EXPECT_NE(refusal([&] { decoder.append(tokens.first(5)); }).find("5 tokens behind 0"), std::string::npos);
    decoder.append(tokens.first(6));
    decoder.truncate(3);
    EXPECT_NE(refusal([&] { decoder.append(tokens.first(6)); }).find("attention.prefix = 6"), std::string::npos);
    const auto stream_refusal = [&](const NetworkConfig& other) {
        return refusal([&] { Decoder(other, run.weights(), stream_of(other, {1, 5}, 1), run.exec); });
    };
    EXPECT_NE(stream_refusal(network).find("attention.prefix = 6"), std::string::npos);
    for (const char* pattern : {"dilated", "strided", "blocked"})
        EXPECT_NE(stream_refusal(masked(pattern, 4, 0, 0)).find(pattern), std::string::npos);
    EXPECT_EQ(stream_refusal(masked("causal", 4, 1, 0)), "");
}

// The token after the prefix is the first that is predicted; those within were read by their predictors.
TEST(Decoder, ScoresNoTargetOfThePrefix) {
    const NetworkConfig network = masked("causal", 0, 0, 6);
    Trained run(network, 40, DType::kF64);
    TinyBatch batch(network, 1);
    for (size_t i = 0; i < batch.targets.size(); ++i) batch.targets[i] = 1;
    run.loss(batch);
    const std::span<const double> wanted = run.model.nll(batch.n()).span<double>();
    Decoder decoder(network, run.weights(), {.cache = {.tokens = 40}, .chunk = 8}, run.exec);
    std::vector<double> nll(batch.tokens.size());
    decoder.score(batch.tokens, batch.targets, nll);
    for (size_t i = 0; i < 5; ++i) EXPECT_EQ(nll[i], 0) << i;
    for (size_t i = 5; i < nll.size(); ++i) EXPECT_NEAR(nll[i], wanted[i], 1e-12 * (1 + wanted[i])) << i;
}

// As long as nothing is evicted a stream is a sequence.
TEST(Decoder, StreamsAreSequencesUntilTheCacheIsFull) {
    NetworkConfig network = tiny_llama();
    network.model.context = 30;
    Trained run(network, 30, DType::kF64);
    const TinyBatch batch(network, 1);
    const Rows wanted = at_once(run, batch, run.core);
    Decoder decoder(network, run.weights(), stream_of(network, {4, 20}, 1), run.exec);
    for (size_t i = 0; i < 25; ++i) {
        decoder.append(std::span(batch.tokens).subspan(i, 1));
        expect_equal(of_last(decoder), wanted[i], 1e-12, i);
    }
    decoder.append(std::span(batch.tokens).subspan(25, 1));
    EXPECT_GT(std::abs(of_last(decoder)[0] - wanted[25][0]), 1e-6);
}

// Wavelengths of another context: by the cache as by a network that was built with them.
TEST(Decoder, RotatesByGivenFrequencies) {
    NetworkConfig network = tiny_llama(), other = network;
    other.model.rope_theta = 77;
    Trained run(network, 11, DType::kF64), with(other, 11, DType::kF64);
    const TinyBatch batch(network, 1);
    const Rows wanted = at_once(with, batch, with.core);
    const std::vector<double> frequencies = rope_frequencies(77, network.model.head_channels());
    for (const int64_t chunk : {1, 4}) {
        Decoder decoder(network, run.weights(), {.cache = {.tokens = 11, .frequencies = frequencies}, .chunk = chunk},
                        run.exec);
        decoder.append(batch.tokens);
        expect_equal(of_last(decoder), wanted[10], 1e-12, 10);
    }
    // What else reads positions does so where the cache rotates.
    NetworkConfig tempered = network;
    tempered.attention.query_temperature = {"both"}, tempered.attention.value_temperature = {"position"};
    Trained warm(tempered, 11, DType::kF64);
    const Rows all = at_once(warm, batch, warm.core);
    Decoder rotated(
        tempered, warm.weights(),
        {.cache = {.tokens = 11,
                   .frequencies = rope_frequencies(network.model.rope_theta, network.model.head_channels())},
         .chunk = 4},
        warm.exec);
    rotated.append(batch.tokens);
    expect_equal(of_last(rotated), all[10], 1e-12, 10);
    // A factor of scores is one of queries.
    Decoder plain(network, run.weights(), {.cache = {.tokens = 11}}, run.exec);
    Decoder scaled(network, run.weights(), {.cache = {.tokens = 11, .score_factor = 3}}, run.exec);
    const auto gain =
        run.model.table().view(run.model.parameters(), run.model.table().find("blocks.0.attn.q_norm.gain"));
    const auto second =
        run.model.table().view(run.model.parameters(), run.model.table().find("blocks.1.attn.q_norm.gain"));
    scaled.append(batch.tokens);
    const std::vector<double> seen = of_last(scaled);
    for (double& value : gain.span<double>()) value *= 3;
    for (double& value : second.span<double>()) value *= 3;
    plain.append(batch.tokens);
    expect_equal(seen, of_last(plain), 1e-12, 10);
}

TEST(Decoder, RunsInBf16) {
    const NetworkConfig network = tiny_llama();
    Trained run(network, 11, DType::kBF16), exact(network, 11, DType::kF64);
    const TinyBatch batch(network, 1);
    const Rows wanted = at_once(exact, batch, exact.core);
    Decoder decoder(network, run.weights(), {.cache = {.tokens = 11}}, run.exec);
    decoder.append(std::span(batch.tokens).first(6));
    for (size_t i = 6; i < 11; ++i) decoder.append(std::span(batch.tokens).subspan(i, 1));
    const std::vector<double> seen = of_last(decoder);
    // Logits of order 3, of two layers with a dozen roundings of 2^-8 each.
    for (size_t v = 0; v < seen.size(); ++v) EXPECT_NEAR(seen[v], wanted[10][v], 0.3);
}

TEST(Decoder, RefusesWhatDoesNotFit) {
    NetworkConfig network = tiny_llama();
    Trained run(network, 11, DType::kF32);
    Decoder decoder(network, run.weights(), {.cache = {.tokens = 3}}, run.exec);
    EXPECT_THROW(decoder.logits(), Error);
    EXPECT_THROW(decoder.append(std::vector<int32_t>{1, 2, 3, 4}), Error);
    EXPECT_EQ(decoder.length(), 0);
    decoder.append(std::vector<int32_t>{1, 2, 3});
    EXPECT_THROW(decoder.append(std::vector<int32_t>{1}), Error);
    EXPECT_THROW(decoder.truncate(4), Error);
    decoder.truncate(0);
    EXPECT_THROW(decoder.append(std::vector<int32_t>{13}), Error);  // an id beyond the vocabulary
    EXPECT_THROW(decoder.append(std::vector<int32_t>{-1}), Error);
    EXPECT_THROW(Decoder(network, run.weights(), {.cache = {.tokens = 0}}, run.exec), Error);
    EXPECT_THROW(Decoder(network, run.weights(), stream_of(network, {3, 0}, 1), run.exec), Error);
    NetworkConfig learned = tiny_gpt2();
    Trained gpt2(learned, 11, DType::kF32);
    EXPECT_THROW(Decoder(learned, gpt2.weights(), {.cache = {.tokens = 12}}, gpt2.exec), Error);
    Decoder stream(network, run.weights(), stream_of(network, {1, 3}, 2), run.exec);
    stream.append(std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7});
    EXPECT_THROW(stream.truncate(3), Error);
    stream.truncate(0);
    EXPECT_EQ(stream.length(), 0);
}

}  // namespace
}  // namespace plimsoll
