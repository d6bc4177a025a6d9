// Suite needle: whether a model finds again what stood far before.
#include <algorithm>
#include <array>
#include <cmath>

#include <nlohmann/json.hpp>

#include "kernels/random.h"
#include "train/eval.h"

namespace plimsoll {
namespace {

using nlohmann::json;

constexpr int64_t kChunk = 256;
constexpr size_t kKey = 4, kValue = 4;  // ids of a needle
constexpr std::array kDepths{0.0, 0.25, 0.5, 0.75, 1.0};

struct Found {
    double tokens = 0, needles = 0;  // sums over trials: share of right ids, whole values
};

// Filler with key and value at a depth, and the key again at the end: the value should follow, which `length` has room
// for. Key and value are drawn from the ids of the stream, so that each of them was trained.
std::vector<int32_t> haystack(const EvalStream& stream, int64_t length, double depth, const RandomStream& random,
                              std::vector<int32_t>& value) {
    const size_t filler = static_cast<size_t>(length) - 2 * (kKey + kValue);
    std::vector<int32_t> key;
    value.clear();
    uint64_t draw = 0;
    const auto some_id = [&] { return stream.tokens[random.below(draw++, stream.tokens.size())]; };
    while (key.size() < kKey) key.push_back(some_id());
    while (value.size() < kValue) value.push_back(some_id());
    const size_t begin = random.below(draw++, stream.tokens.size() - filler + 1);
    const auto at = stream.tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    std::vector<int32_t> row(at, at + static_cast<std::ptrdiff_t>(filler));
    const auto place = row.begin() + static_cast<std::ptrdiff_t>(depth * static_cast<double>(filler));
    std::vector<int32_t> needle = key;
    needle.insert(needle.end(), value.begin(), value.end());
    row.insert(place, needle.begin(), needle.end());
    row.insert(row.end(), key.begin(), key.end());
    return row;
}

}  // namespace

json eval_needle(const EvalContext& context) {
    const NetworkConfig& network = context.network();
    const int64_t T = network.model.context, k = network.attention.placeholders;
    const std::vector<int64_t> lengths = network.model.position == "learned"
                                             ? std::vector<int64_t>{T / 4, T / 2, T}
                                             : std::vector<int64_t>{T / 4, T / 2, T, 2 * T, 4 * T};
    const EvalStream stream = context.data().stream(64 * T);
    json rows = json::array(), results = rows, curves = rows;
    for (const int64_t length : lengths) {
        const int64_t real = length - k;
        if (real < static_cast<int64_t>(2 * kKey + 2 * kValue) + 8 ||
            real > static_cast<int64_t>(stream.tokens.size()) ||
            length - static_cast<int64_t>(kValue) < network.attention.prefix)
            continue;
        Decoder decoder(network, context.weights.weights(),
                        {.cache = {.tokens = length}, .chunk = std::min(kChunk, length)}, context.exec);
        json x = json::array(), y = x;
        for (const double depth : kDepths) {
            Found found;
            for (int64_t trial = 0; trial < context.options.trials; ++trial) {
                const RandomStream random(1, "needle", fmt::format("{} {}", length, depth),
                                          static_cast<uint64_t>(trial));
                std::vector<int32_t> value;
                std::vector<int32_t> row = haystack(stream, real, depth, random, value);
                for (int64_t p = 0; p < k; ++p) row.insert(row.begin() + p, static_cast<int32_t>(network.vocab + p));
                decoder.truncate(0);
                decoder.append(row);
                size_t right = 0;
                for (size_t i = 0; i < kValue; ++i) {
                    const Tensor logits = decoder.logits();
                    dispatch_float(logits.dtype, [&]<class R>() {
                        const R* from = logits.ptr<R>();
                        right += std::max_element(from, from + network.vocab) - from == value[i];
                    });
                    if (i + 1 < kValue) decoder.append({&value[i], 1});
                }
                found.tokens += static_cast<double>(right) / kValue, found.needles += right == kValue;
            }
            const double trials = static_cast<double>(context.options.trials);
            results.push_back({{"tokens", length},
                               {"depth", depth},
                               {"token_accuracy", found.tokens / trials},
                               {"accuracy", found.needles / trials}});
            rows.push_back({length, depth, found.needles / trials, found.tokens / trials});
            x.push_back(depth), y.push_back(found.tokens / trials);
        }
        curves.push_back({{"name", fmt::format("{} tokens", length)}, {"x", x}, {"y", y}});
    }
    if (results.empty()) return {{"refused", fmt::format("a context of {} leaves no room for a needle", T)}};
    return {{"results", results},
            {"curves", curves},
            {"notes",
             {fmt::format("{} ids of key and {} of value, drawn from the data's ids, within text of the data; the key "
                          "again at the end; accuracy: share of {} trials whose whole value is the most likely "
                          "continuation",
                          kKey, kValue, context.options.trials)}},
            {"table", {{"columns", {"tokens", "depth", "accuracy", "of single tokens"}}, {"rows", rows}}}};
}

}  // namespace plimsoll
