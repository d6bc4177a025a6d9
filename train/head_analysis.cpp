#include "train/head_analysis.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "kernels/random.h"
#include "kernels/widened_rows.h"

namespace plimsoll {
namespace {

HeadAttribution attribution(const AttentionCall& call, int64_t head, int64_t begin, int64_t n) {
    const AttentionTensors& t = call.t;
    const int64_t VS = t.v.shape[2], group = t.q.shape[1] / t.v.shape[1];
    const HeadWeights weights(t, call.spec, head, begin, n);
    const std::vector<double> v = widened_rows(head_rows(t.v, head / group, begin, n)),
                              dout = widened_rows(head_rows(call.d.out, head, begin, n));
    HeadAttribution result;
    for (int64_t i = 0; i < n; ++i) {
        const double g = head_gate(t, begin + i, head);
        for (int64_t j = 0; j < weights.keys_end(i); ++j) {
            if (!weights.visible(i, j)) continue;
            double dot = 0;
            for (int64_t c = 0; c < VS; ++c)
                dot += dout[static_cast<size_t>(i * VS + c)] * v[static_cast<size_t>(j * VS + c)];
            const double product = weights.weight(i, j) * g * dot;
            result.signed_sum += product, result.absolute += std::abs(product);
            if (j == 0) result.first += std::abs(product);
        }
    }
    return result;
}

}  // namespace

ColumnMasses column_masses(const HeadWeights& weights, int64_t n) {
    ColumnMasses columns{std::vector<double>(static_cast<size_t>(n)), std::vector<double>(static_cast<size_t>(n))};
    std::vector<int64_t> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
        const double row = weights.row_sum(i);
        for (int64_t j = 0; j < weights.keys_end(i); ++j) {
            if (!weights.visible(i, j)) continue;
            const auto at = static_cast<size_t>(j);
            columns.received[at] += weights.weight(i, j);
            columns.share[at] += weights.weight(i, j) / (row + kRowEpsilon);
            ++seen[at];
        }
    }
    for (size_t j = 0; j < seen.size(); ++j) columns.share[j] /= static_cast<double>(seen[j]);
    return columns;
}

double tokens_for_half(const std::vector<double>& received) {
    std::vector<double> sorted = received;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    const double all = std::accumulate(sorted.begin(), sorted.end(), 0.0);
    if (!(all > 0)) return std::nan("");
    double sum = 0;
    size_t tokens = 0;
    while (tokens < sorted.size() && sum < all / 2) sum += sorted[tokens++];
    return static_cast<double>(tokens) / static_cast<double>(sorted.size());
}

RepeatedDocuments repeated_documents(const std::vector<ProbeBatch>& groups, const NetworkConfig& network,
                                     uint64_t seed) {
    const int64_t k = network.attention.placeholders;
    std::set<int32_t> others;
    std::vector<std::vector<int32_t>> first_of(groups.size());
    for (size_t g = 0; g < groups.size(); ++g)
        for (int64_t d = 0; d < groups[g].documents(); ++d) {
            const int64_t begin = groups[g].cu_seqlens[static_cast<size_t>(d)] + k,
                          end = groups[g].cu_seqlens[static_cast<size_t>(d) + 1];
            if (begin >= end) continue;
            first_of[g].push_back(groups[g].tokens[static_cast<size_t>(begin)]);
            others.insert(groups[g].tokens.begin() + begin + 1, groups[g].tokens.begin() + end);
        }
    std::vector<int32_t> ids(others.begin(), others.end());
    // One id more than is needed, in case a document's first token is among them.
    RepeatedDocuments repeated{
        k + 1, std::min((network.model.context - k - 1) / 2, static_cast<int64_t>(ids.size()) - 1), {}};
    if (repeated.n < 2) return repeated;
    const RandomStream random(seed, "analysis", "repeated documents");
    uint64_t draw = 0;
    for (const std::vector<int32_t>& first_tokens : first_of) {
        if (first_tokens.empty()) continue;
        ProbeBatch group;
        group.cu_seqlens.push_back(0);
        for (const int32_t first : first_tokens) {
            std::vector<int32_t> document, copy;
            for (size_t i = 0; static_cast<int64_t>(copy.size()) < repeated.n; ++i) {
                std::swap(ids[i], ids[i + random.below(draw++, ids.size() - i)]);
                if (ids[i] != first) copy.push_back(ids[i]);
            }
            for (int64_t p = 0; p < k; ++p) document.push_back(static_cast<int32_t>(network.vocab + p));
            document.push_back(first);
            for (int twice = 0; twice < 2; ++twice) document.insert(document.end(), copy.begin(), copy.end());
            const auto length = static_cast<int64_t>(document.size());
            for (int64_t t = 0; t < length; ++t) {
                const bool scored = t >= k && t + 1 < length;
                group.tokens.push_back(document[static_cast<size_t>(t)]);
                group.targets.push_back(scored ? document[static_cast<size_t>(t + 1)] : -1);
                group.positions.push_back(static_cast<int32_t>(t));
            }
            group.cu_seqlens.push_back(static_cast<int32_t>(group.tokens.size()));
        }
        repeated.groups.push_back(std::move(group));
    }
    return repeated;
}

RepeatScores repeat_scores(const HeadWeights& weights, int64_t begin, int64_t n) {
    Mean induction, echo, previous;
    for (int64_t i = begin; i < begin + 2 * n; ++i) {
        const double row = weights.row_sum(i) + kRowEpsilon;
        previous.add(weights.weight(i, i - 1) / row);
        if (i < begin + n) continue;
        induction.add(weights.weight(i, i - n + 1) / row), echo.add(weights.weight(i, i - n) / row);
    }
    return {induction.value(), echo.value(), previous.value()};
}

void AttributedAttention::compute_backward(const AttentionCall& call, const Exec& exec) {
    check(call.d.out.device == Device::kCpu, "attributions are computed in host memory");
    const int64_t documents = static_cast<int64_t>(call.cu_seqlens.size()) - 1;
    std::vector<HeadAttribution> parts(static_cast<size_t>(documents * heads_));
#pragma omp parallel for num_threads(exec.threads) schedule(dynamic)
    for (int64_t unit = 0; unit < documents * heads_; ++unit) {
        const auto d = static_cast<size_t>(unit / heads_);
        parts[static_cast<size_t>(unit)] =
            attribution(call, unit % heads_, call.cu_seqlens[d], call.cu_seqlens[d + 1] - call.cu_seqlens[d]);
    }
    for (int64_t unit = 0; unit < documents * heads_; ++unit) {
        HeadAttribution& sum = sums_[static_cast<size_t>(call.layer * heads_ + unit % heads_)];
        const HeadAttribution& part = parts[static_cast<size_t>(unit)];
        sum.absolute += part.absolute, sum.first += part.first, sum.signed_sum += part.signed_sum;
    }
    core_.compute_backward(call, exec);
}

}  // namespace plimsoll
