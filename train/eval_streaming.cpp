// Suite streaming: M12, the protocol of StreamingLLM (arXiv:2309.17453) on one concatenated stream.
#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include "train/eval.h"
#include "train/generate.h"
#include "train/timing.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = 64;        // tokens scored together
constexpr int64_t kTimedTokens = 64;  // one by one, at two places of the stream
constexpr int64_t kCurvePoints = 48;

double mean(std::span<const double> values) {
    double sum = 0;
    for (const double value : values) sum += value;
    return values.empty() ? std::nan("") : sum / static_cast<double>(values.size());
}

double median(std::vector<double> values) {
    if (values.empty()) return 0;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

json number(double value) {
    return std::isfinite(value) ? json(value) : json();
}

// Losses of a stream's targets under one cache, and how long tokens took.
struct Streamed {
    std::vector<double> nll;
    double early_ms = 0, late_ms = 0;  // median per token, just after the cache is full and at the end
};

class Streaming {
  public:
    Streaming(const EvalContext& context, int64_t window)
        : context_(context),
          window_(window),
          k_(context.network().attention.placeholders),
          stream_(context.data().stream(context.options.stream_tokens ? context.options.stream_tokens
                                                                      : 24 * context.network().model.context)) {}

    int64_t tokens() const { return static_cast<int64_t>(stream_.tokens.size()); }

    Streamed run(int64_t start) const {
        Decoder decoder(context_.network(), context_.weights.weights(),
                        streaming_options(context_.network(), {start, window_ - start}, kChunk), context_.exec);
        append_placeholders(decoder);
        Streamed result{.nll = std::vector<double>(stream_.tokens.size())};
        const int64_t first = std::min(2 * window_, tokens()), last = std::max(first, tokens() - kTimedTokens);
        score(decoder, 0, first, kChunk, result.nll);
        result.early_ms = timed(decoder, first, std::min(first + kTimedTokens, last), result.nll);
        score(decoder, std::min(first + kTimedTokens, last), last, kChunk, result.nll);
        result.late_ms = timed(decoder, last, tokens(), result.nll);
        return result;
    }

    // Every `stride`-th target behind the first eviction, the last `window` tokens before it computed again from
    // nothing, with the placeholders in front of them. -> positions of the targets, their losses, ms per token.
    double dense(std::vector<int64_t>& targets, std::vector<double>& nll) const {
        const int64_t room = tokens() - window_;
        const int64_t count = std::min(context_.options.dense_targets, room);
        Decoder decoder(context_.network(), context_.weights.weights(),
                        {.cache = {.tokens = window_}, .chunk = window_}, context_.exec);
        std::vector<double> one(1), ms;
        for (int64_t i = 0; i < count; ++i) {
            const int64_t at = window_ + i * room / count;
            const std::span<const int32_t> seen = std::span(stream_.tokens).first(static_cast<size_t>(at + 1));
            const double begin = now_seconds();
            decoder.truncate(0);
            append_placeholders(decoder);
            const std::span<const int32_t> last = seen.last(static_cast<size_t>(window_ - k_));
            decoder.append(last.first(last.size() - 1));
            decoder.score(last.last(1), {&stream_.targets[static_cast<size_t>(at)], 1}, one);
            ms.push_back(1e3 * (now_seconds() - begin));
            targets.push_back(at), nll.push_back(one[0]);
        }
        return median(ms);
    }

  private:
    void append_placeholders(Decoder& decoder) const {
        for (int64_t p = 0; p < k_; ++p) {
            const auto id = static_cast<int32_t>(context_.network().vocab + p);
            decoder.append({&id, 1});
        }
    }
    void score(Decoder& decoder, int64_t from, int64_t to, int64_t step, std::vector<double>& nll) const {
        for (int64_t at = from; at < to; at += step) {
            const auto begin = static_cast<size_t>(at), count = static_cast<size_t>(std::min(step, to - at));
            decoder.score(std::span(stream_.tokens).subspan(begin, count),
                          std::span(stream_.targets).subspan(begin, count), std::span(nll).subspan(begin, count));
        }
    }
    // The median: another process may take a core for the time of many tokens.
    double timed(Decoder& decoder, int64_t from, int64_t to, std::vector<double>& nll) const {
        std::vector<double> ms;
        for (int64_t at = from; at < to; ++at) {
            const double begin = now_seconds();
            score(decoder, at, at + 1, 1, nll);
            ms.push_back(1e3 * (now_seconds() - begin));
        }
        return median(ms);
    }

    const EvalContext& context_;
    int64_t window_, k_;
    EvalStream stream_;
};

// Means of equal parts of the stream.
json curve_of(const std::string& name, const std::vector<double>& nll) {
    json x = json::array(), y = x;
    const auto size = static_cast<int64_t>(nll.size()), parts = std::min(kCurvePoints, size);
    for (int64_t p = 0; p < parts; ++p) {
        const int64_t begin = p * size / parts, end = (p + 1) * size / parts;
        x.push_back(end);
        y.push_back(number(mean(std::span(nll).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)))));
    }
    return {{"name", name}, {"x", x}, {"y", y}};
}

}  // namespace

json eval_streaming(const EvalContext& context) {
    const NetworkConfig& network = context.network();
    if (network.model.position == "learned")
        return {{"refused",
                 "model.position = \"learned\": a position is added to a token before the first layer, so a cached key "
                 "cannot move to another place in the cache"}};
    if (network.attention.prefix > 1)
        return {{"refused", fmt::format("attention.prefix = {}: its first tokens see one another and all others see "
                                        "them; a stream forgets them",
                                        network.attention.prefix)}};
    for (int64_t layer = 0; layer < network.model.layers; ++layer)
        if (network.attention.spec(layer, network.model).pattern != MaskPattern::kCausal)
            return {{"refused",
                     fmt::format("layer {} has attention.pattern \"{}\", which goes by true distances; a cached key "
                                 "moves to other places in the cache",
                                 layer, network.attention.pattern_name(layer))}};
    const int64_t window = context.options.window ? context.options.window : network.model.context / 2;
    const int64_t k = network.attention.placeholders;
    if (window < std::max<int64_t>(8, k + 2) || window > network.model.context)
        fail_input("--window is {}, must lie in {} .. {} (the context)", window, std::max<int64_t>(8, k + 2),
                   network.model.context);
    const Streaming streaming(context, window);
    if (streaming.tokens() < 2 * window + 2 * kTimedTokens)
        return {{"refused", fmt::format("the stream has {} tokens, wanted at least {} for a window of {}",
                                        streaming.tokens(), 2 * window + 2 * kTimedTokens, window)}};
    std::vector<int64_t> targets;
    std::vector<double> dense_nll;
    const double dense_ms = streaming.dense(targets, dense_nll);
    json rows = json::array(), curves = rows, caches = rows;
    // Real token t is number t + k of the sequence; number window + 1 is the first that misses one.
    const auto full = static_cast<size_t>(window + 1 - k), around = std::min<size_t>(64, full);
    for (const int64_t start : {0, 1, 2, 4}) {
        const Streamed streamed = streaming.run(start);
        const std::span<const double> nll = streamed.nll;
        const double all = mean(nll), before = mean(nll.subspan(full - around, around)),
                     after = mean(nll.subspan(full, around)), later = mean(nll.subspan(full));
        double same = 0;
        for (const int64_t at : targets) same += nll[static_cast<size_t>(at)] / static_cast<double>(targets.size());
        const std::string name = fmt::format("{}+{}", start, window - start);
        caches.push_back({{"start", start},
                          {"recent", window - start},
                          {"ppl", number(std::exp(all))},
                          {"loss", number(all)},
                          {"loss_after_eviction", number(later)},
                          {"ppl_dense_targets", number(std::exp(same))},
                          {"first_eviction_jump", number(after - before)},
                          {"ms_per_token_early", streamed.early_ms},
                          {"ms_per_token_late", streamed.late_ms}});
        rows.push_back({name, number(std::exp(all)), number(std::exp(later)), number(std::exp(same)),
                        number(after - before), streamed.early_ms, streamed.late_ms});
        curves.push_back(curve_of(name, streamed.nll));
    }
    const json dense_ppl = number(std::exp(mean(dense_nll)));
    rows.push_back({"computed again", json(), json(), dense_ppl, json(), dense_ms, dense_ms});
    return {{"window", window},
            {"tokens", streaming.tokens()},
            {"contexts", static_cast<double>(streaming.tokens()) / static_cast<double>(network.model.context)},
            {"caches", caches},
            {"dense", {{"targets", targets.size()}, {"ppl", dense_ppl}, {"ms_per_token", dense_ms}}},
            {"curves", curves},
            {"notes",
             {fmt::format("{} tokens, {:.1f} contexts of {}; a cache of {}{}", streaming.tokens(),
                          static_cast<double>(streaming.tokens()) / static_cast<double>(network.model.context),
                          network.model.context, window,
                          k ? fmt::format(", its first {} the placeholders", k) : std::string())}},
            {"table",
             {{"columns",
               {"cache", "perplexity", "after eviction", fmt::format("on {} targets", targets.size()),
                "jump at eviction", "ms/token, early", "ms/token, late"}},
              {"rows", rows}}}};
}

}  // namespace plimsoll
