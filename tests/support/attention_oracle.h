// Attention by the definition, in double, with the whole (T, T) matrix: written from the papers, sharing nothing with
// the kernels but the structs that say what to compute.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/attention.h"

namespace plimsoll {

struct AttentionCase {
    std::string weighting = "softmax";
    ExtraColumn extra = ExtraColumn::kNone;
    double extra_logit = 0;
    ScoreBias bias = ScoreBias::kConstant;
    double bias_value = 0;
    int64_t window = 0, pinned = 0;
    MaskPattern pattern = MaskPattern::kCausal;
    int64_t dilation = 1, prefix = 0;
    bool alibi = false;
    int64_t NH = 1, NKV = 1, HS = 8;
    std::vector<int32_t> cu_seqlens = {0, 5};
    double spread = 1;      // of queries and keys
    double sink_shift = 0;  // added to learned sink logits
    bool gate = false;      // one per head
    bool positive = false;  // queries and keys, as a kernel phi makes them
    bool key_bias = false;  // one per key and query head
    int64_t VS = 0;         // channels of values and outputs, 0: HS

    int64_t N() const { return cu_seqlens.back(); }
    int64_t value_size() const { return VS ? VS : HS; }
    // A token's queries, keys and values in one row.
    int64_t query_columns() const { return NH * HS; }
    int64_t key_columns() const { return NKV * HS; }
    int64_t value_columns() const { return NKV * value_size(); }
    int64_t columns() const { return query_columns() + key_columns() + value_columns(); }
    int64_t out_columns() const { return NH * value_size(); }
    // Of the partial sums that out is made of: of order one where weights are shares of a row or below one. Scores
    // themselves, and their squares, are several, and go as far as ALiBi takes them.
    double magnitude() const {
        if (weighting == "linear" && alibi) return std::exp2(-8.0 / static_cast<double>(NH)) * static_cast<double>(N());
        return is_normalized(spec().weighting) || weighting == "sigmoid" ? 1 : 4;
    }
    AttentionSpec spec() const {
        AttentionSpec s;
        for (size_t i = 0; i < variants().size(); ++i)
            if (variants()[i].name == weighting) s.weighting = static_cast<Weighting>(i);
        s.scale = 1 / std::sqrt(static_cast<double>(HS));
        s.extra_column = extra, s.extra_logit = extra_logit, s.bias_kind = bias, s.score_bias = bias_value;
        s.window = window, s.pinned = pinned, s.alibi = alibi;
        s.pattern = pattern, s.dilation = dilation, s.prefix = prefix;
        return s;
    }
};

struct PatternCase {
    MaskPattern pattern;
    int64_t window, dilation, pinned, prefix;
    AttentionCase of(AttentionCase c) const {
        c.pattern = pattern, c.window = window, c.dilation = dilation, c.pinned = pinned, c.prefix = prefix;
        return c;
    }
};
// Windows, steps and prefixes below and above a tile of 64, beside it, and longer than documents.
inline constexpr PatternCase kPatterns[] = {
    {MaskPattern::kCausal, 0, 1, 0, 2},    {MaskPattern::kCausal, 0, 1, 0, 70},   {MaskPattern::kCausal, 5, 1, 0, 64},
    {MaskPattern::kCausal, 66, 1, 2, 129}, {MaskPattern::kCausal, 0, 1, 0, 500},  {MaskPattern::kDilated, 0, 3, 0, 0},
    {MaskPattern::kDilated, 4, 2, 3, 0},   {MaskPattern::kDilated, 2, 67, 0, 0},  {MaskPattern::kDilated, 3, 20, 70, 9},
    {MaskPattern::kDilated, 9, 1, 0, 0},   {MaskPattern::kStrided, 1, 1, 0, 0},   {MaskPattern::kStrided, 7, 1, 0, 0},
    {MaskPattern::kStrided, 65, 1, 4, 0},  {MaskPattern::kStrided, 12, 1, 0, 80}, {MaskPattern::kBlocked, 1, 1, 0, 0},
    {MaskPattern::kBlocked, 10, 1, 3, 0},  {MaskPattern::kBlocked, 64, 1, 0, 0},  {MaskPattern::kBlocked, 100, 1, 0, 7},
};

// How a failing case is named.
inline void PrintTo(const AttentionCase& c, std::ostream* out) {
    *out << c.weighting << " N=" << c.N() << " documents=" << c.cu_seqlens.size() - 1 << " heads=" << c.NH << "/"
         << c.NKV << " HS=" << c.HS << " VS=" << c.value_size() << " window=" << c.window << " pinned=" << c.pinned
         << " pattern=" << static_cast<int>(c.pattern) << " dilation=" << c.dilation << " prefix=" << c.prefix
         << (c.alibi ? " alibi" : "") << (c.gate ? " gate" : "") << (c.key_bias ? " key_bias" : "")
         << " extra=" << static_cast<int>(c.extra) << " bias=" << static_cast<int>(c.bias);
}

// Whether query i sees key j, both counted from their document's first token.
inline bool oracle_visible(const AttentionCase& c, int64_t i, int64_t j) {
    if (i < c.prefix && j < c.prefix) return true;
    if (j > i) return false;
    if (j < c.pinned || j == i) return true;
    switch (c.pattern) {
        case MaskPattern::kCausal:
            return c.window == 0 || j > i - c.window;
        case MaskPattern::kDilated:
            for (int64_t seen = i, n = 0; seen >= 0 && (c.window == 0 || n < c.window); seen -= c.dilation, ++n)
                if (seen == j) return true;
            return false;
        case MaskPattern::kStrided:
            return j > i - c.window || i % c.window == j % c.window;
        case MaskPattern::kBlocked:
            return i / c.window == j / c.window;
    }
    ADD_FAILURE() << "tests/support/attention_oracle.h has no rule for pattern " << static_cast<int>(c.pattern);
    return false;
}

// A case plain, then with every other extra column or bias that its weighting takes.
inline std::vector<AttentionCase> columns_and_biases(const AttentionCase& c) {
    std::vector<AttentionCase> kinds = {c};
    const Weighting weighting = c.spec().weighting;
    for (const ExtraColumn extra : {ExtraColumn::kConstant, ExtraColumn::kLearnedLogit})
        if (takes_extra_column(weighting)) kinds.push_back(c), kinds.back().extra = extra;
    for (const ScoreBias bias : {ScoreBias::kPerRow, ScoreBias::kLearned})
        if (takes_bias(weighting)) kinds.push_back(c), kinds.back().bias = bias;
    return kinds;
}

// Raw weights over their sum and 1e-8; `sum` is what forward saves.
inline std::vector<double> over_sum(std::vector<double> f, double& sum) {
    for (const double x : f) sum += x;
    for (double& x : f) x /= sum + 1e-8;
    return f;
}

// Weights of a row from its visible scores. learned: the head's sink logit or bias. statistic: what forward saves of a
// row. A weighting without an entry here fails its tests: add its formula.
inline std::vector<double> oracle_row(const AttentionCase& c, const std::vector<double>& scores, double learned,
                                      double& statistic) {
    std::vector<double> p;
    statistic = 0;
    const double n = static_cast<double>(scores.size());
    const double b = c.bias == ScoreBias::kPerRow    ? -std::log(n)
                     : c.bias == ScoreBias::kLearned ? learned
                                                     : c.bias_value;
    if (c.weighting == "softmax") {  // exp(s_j) / (exp(e) + sum exp(s))
        double top = -std::numeric_limits<double>::infinity(), sum = 0;
        const double e = c.extra == ExtraColumn::kConstant ? c.extra_logit : learned;
        if (c.extra != ExtraColumn::kNone) top = e;
        for (const double s : scores) top = std::max(top, s);
        if (c.extra != ExtraColumn::kNone) sum = std::exp(e - top);
        for (const double s : scores) sum += std::exp(s - top);
        for (const double s : scores) p.push_back(std::exp(s - top) / sum);
        statistic = top + std::log(sum);
    } else if (c.weighting == "sigmoid") {  // 1 / (1 + exp(-(s + b)))
        for (const double s : scores) p.push_back(1 / (1 + std::exp(-(s + b))));
    } else if (c.weighting == "sigmoid_normalized") {  // sigmoid(s_j) / (sum sigmoid(s) + 1e-8)
        for (const double s : scores) p.push_back(1 / (1 + std::exp(-s)));
        p = over_sum(p, statistic);
    } else if (c.weighting == "relu") {  // max(0, s) e^b
        for (const double s : scores) p.push_back(std::max(0.0, s) * std::exp(b));
    } else if (c.weighting == "kernel_normalized") {  // max(0, s_j) / (sum max(0, s) + 1e-8)
        for (const double s : scores) p.push_back(std::max(0.0, s));
        p = over_sum(p, statistic);
    } else if (c.weighting == "elu1") {  // e^s below 0, s + 1 above
        for (const double s : scores) p.push_back(s < 0 ? std::exp(s) : s + 1);
    } else if (c.weighting == "elu1_normalized") {
        for (const double s : scores) p.push_back(s < 0 ? std::exp(s) : s + 1);
        p = over_sum(p, statistic);
    } else if (c.weighting == "linear") {  // s
        p = scores;
    } else if (c.weighting == "linear_normalized") {  // s_j / max(|sum s|, 1)
        for (const double s : scores) statistic += s;
        for (const double s : scores) p.push_back(s / std::max(std::abs(statistic), 1.0));
    } else if (c.weighting == "uniform") {  // 1 / n
        p.assign(scores.size(), 1 / n);
        statistic = n;
    } else {
        ADD_FAILURE() << "tests/support/attention_oracle.h has no formula for weighting '" << c.weighting << "'";
    }
    return p;
}

// out (N, NH, VS) and the rows' statistic lse (NH, N) from q (N, NH, HS), k (N, NKV, HS), v (N, NKV, VS), dense.
// key_bias (N, NH), added to every score of a key, may be empty.
inline void attention_oracle(const AttentionCase& c, const std::vector<double>& q, const std::vector<double>& k,
                             const std::vector<double>& v, const std::vector<double>& learned,
                             const std::vector<double>& gate, std::vector<double>& out, std::vector<double>& lse,
                             const std::vector<double>& key_bias = {}) {
    const int64_t N = c.N(), VS = c.value_size();
    out.assign(static_cast<size_t>(N * c.out_columns()), 0);
    lse.assign(static_cast<size_t>(c.NH * N), 0);
    const auto at = [&](int64_t n, int64_t heads, int64_t h, int64_t x) {
        return static_cast<size_t>((n * heads + h) * c.HS + x);
    };
    const auto value_at = [&](int64_t n, int64_t heads, int64_t h, int64_t x) {
        return static_cast<size_t>((n * heads + h) * VS + x);
    };
    for (size_t d = 0; d + 1 < c.cu_seqlens.size(); ++d)
        for (int64_t h = 0; h < c.NH; ++h)
            for (int64_t i = c.cu_seqlens[d]; i < c.cu_seqlens[d + 1]; ++i) {
                const int64_t g = h / (c.NH / c.NKV), first = c.cu_seqlens[d];
                std::vector<double> scores;
                std::vector<int64_t> keys;
                for (int64_t j = first; j < c.cu_seqlens[d + 1]; ++j) {
                    if (!oracle_visible(c, i - first, j - first)) continue;
                    double dot = 0;
                    for (int64_t x = 0; x < c.HS; ++x) dot += q[at(i, c.NH, h, x)] * k[at(j, c.NKV, g, x)];
                    double s = dot / std::sqrt(static_cast<double>(c.HS));
                    if (!key_bias.empty()) s += key_bias[static_cast<size_t>(j * c.NH + h)];
                    if (c.alibi)
                        s -= std::pow(2.0, -8.0 * static_cast<double>(h + 1) / static_cast<double>(c.NH)) *
                             static_cast<double>(std::abs(i - j));
                    scores.push_back(s);
                    keys.push_back(j);
                }
                const std::vector<double> p =
                    oracle_row(c, scores, learned.empty() ? 0 : learned[static_cast<size_t>(h)],
                               lse[static_cast<size_t>(h * N + i)]);
                for (size_t n = 0; n < p.size(); ++n)
                    for (int64_t x = 0; x < VS; ++x)
                        out[value_at(i, c.NH, h, x)] += p[n] * v[value_at(keys[n], c.NKV, g, x)];
                if (gate.empty()) continue;
                const double open = 1 / (1 + std::exp(-gate[static_cast<size_t>(i * c.NH + h)]));
                for (int64_t x = 0; x < VS; ++x) out[value_at(i, c.NH, h, x)] *= open;
            }
}

}  // namespace plimsoll
